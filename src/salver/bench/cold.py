"""Cold starts: from the call that deploys a version nobody has loaded to its first right answer.

A temporary endpoint is deployed and removed again, so nothing that serves is interrupted.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from salver.bench.figures import Cold, Cycle
from salver.client.calls import Steps, admin_call, check, json_of
from salver.client.sync import Client
from salver.core.clock import Clock, SystemClock
from salver.core.errors import (
    Conflict,
    DeadlineExceeded,
    EndpointNotFound,
    LoadFailed,
    NotReady,
    SalverError,
)
from salver.core.names import ModelReference

_POLL_S = 0.002
_STATE_EVERY_POLLS = 50
_GONE_POLL_S = 0.05
# After the plan is without the version, its worker still has to hear that and let it go.
_LET_GO_S = 0.5
_NS_PER_MS = 1e6
_QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class ColdJob:
    """Which version to start how often under which endpoint name.

    ``ask`` asks the endpoint once and returns what it refused with, None when it answered right.
    """

    client: Client
    reference: ModelReference
    endpoint: str
    ask: Callable[[], SalverError | None]
    cycles: int
    timeout_s: float
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep


def measure(job: ColdJob, told: Callable[[Cycle], None]) -> Cold:
    """Start the version ``cycles`` times; ``told`` gets each as it is done.

    Raises ``Conflict`` when the version is loaded already, ``LoadFailed`` when it cannot be,
    ``DeadlineExceeded`` when it takes longer than the timeout, and what its request is refused
    with. The temporary endpoint is removed whatever happens.
    """
    cycles: list[Cycle] = []
    for _ in range(job.cycles):
        _await_unloaded(job, at_once=not cycles)
        try:
            cycle = _cycle(job)
        finally:
            _remove(job)
        cycles.append(cycle)
        told(cycle)
    return summary(job.reference, cycles)


def summary(reference: ModelReference, cycles: list[Cycle]) -> Cold:
    """Return the figures of at least one cycle."""
    durations_ms = [cycle.answered_ms for cycle in cycles]
    return Cold(str(reference), cycles, statistics.median(durations_ms), max(durations_ms))


def _cycle(job: ColdJob) -> Cycle:
    begun_ns = job.clock.monotonic_ns()

    def passed_ms() -> float:
        return (job.clock.monotonic_ns() - begun_ns) / _NS_PER_MS

    job.client.run(_deploy(job.endpoint, job.reference))
    accepted_ms = passed_ms()
    polls = 0
    while True:
        polls += 1
        error = job.ask()
        if error is None:
            return Cycle(accepted_ms, passed_ms(), polls)
        if not isinstance(error, EndpointNotFound | NotReady):
            raise error
        if polls % _STATE_EVERY_POLLS == 0:
            job.client.run(_check_state(job.endpoint))
        if passed_ms() > job.timeout_s * 1e3:
            raise DeadlineExceeded(
                f"{job.reference} gave no answer within {job.timeout_s:g} s: {error.message}"
            )
        job.sleep(_POLL_S)


def _await_unloaded(job: ColdJob, *, at_once: bool) -> None:
    """Wait until no worker is to have the version; ``at_once`` takes none that has it now."""
    begun_ns = job.clock.monotonic_ns()
    while holders := job.client.run(_holders(job.reference)):
        if at_once:
            raise Conflict(
                f"{job.reference} is loaded in {', '.join(holders)}, so a start would not be cold; "
                "undeploy the endpoints that serve it first, or name another version"
            )
        if job.clock.monotonic_ns() - begun_ns > job.timeout_s * 1e9:
            raise DeadlineExceeded(f"{job.reference} was not let go by {', '.join(holders)}")
        job.sleep(_GONE_POLL_S)
    if not at_once:
        job.sleep(_LET_GO_S)


def _remove(job: ColdJob) -> None:
    error = job.client.run(_undeploy(job.endpoint))
    if error is not None and not isinstance(error, EndpointNotFound):
        raise error


def _deploy(endpoint: str, reference: ModelReference) -> Steps[None]:
    check((yield admin_call("PUT", f"/endpoints/{endpoint}", {"model": str(reference)})))


def _undeploy(endpoint: str) -> Steps[SalverError | None]:
    try:
        check((yield admin_call("DELETE", f"/endpoints/{endpoint}")))
    except SalverError as error:
        return error
    return None


def _check_state(endpoint: str) -> Steps[None]:
    state = json_of((yield admin_call("GET", f"/endpoints/{endpoint}")))
    if state["state"] == "failed":
        raise LoadFailed(str(state["reason"]))


def _holders(reference: ModelReference) -> Steps[list[str]]:
    workers = json_of((yield admin_call("GET", "/workers")))
    return [
        str(worker["id"])
        for worker in workers
        if worker["kind"] != _QUARANTINE and str(reference) in worker["models"]
    ]
