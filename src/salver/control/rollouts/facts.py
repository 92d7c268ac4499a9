"""What the processes say of a rollout's two versions."""

from typing import NamedTuple

from salver.control.desired import Desired, Observed
from salver.control.hosts import failure, placement, ready_workers
from salver.rollout.machine import Rollout


class Facts(NamedTuple):
    """Who can answer, and what could not be loaded."""

    is_ready: bool
    is_primary_ready: bool
    failure: str


def facts_of(rollout: Rollout, wish: Desired, observed: Observed) -> Facts:
    """Return what is seen of a rollout."""
    primary, *arms = wish.each()
    canary = next(
        (arm for arm in arms if arm.version is not None and arm.version.id == rollout.target),
        None,
    )
    is_primary_ready = bool(ready_workers(primary, observed))
    if canary is None:
        return Facts(False, is_primary_ready, "")
    ready = ready_workers(canary, observed)
    connected = [worker for worker in placement(canary, observed) if worker in observed.workers]
    failed = failure(canary, observed)
    return Facts(
        bool(ready) and len(ready) == len(connected),
        is_primary_ready,
        failed.error or failed.code if failed is not None else "",
    )
