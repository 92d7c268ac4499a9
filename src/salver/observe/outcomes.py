"""What became of requests, summed for those who act on it: by variant, worker and caller."""

from collections.abc import Callable, Sequence

import msgspec

from salver.core.errors import ERRORS_BY_CODE, Fault
from salver.core.exchange import JointExchange, Record

Caller = tuple[str, str]

# What the platform or the model has failed at. A request that is wrong, refused or left by its
# caller says nothing about either.
FAILURES = frozenset(
    code for code, error in ERRORS_BY_CODE.items() if error.side in (Fault.MODEL, Fault.PLATFORM)
)
STALLED_NS = 1_000_000_000
"""A deadline that passed sooner says more of a caller in a hurry than of the model."""
_LATE = "deadline_exceeded"


def stalled(record: Record) -> bool:
    """Tell whether a worker had a request for long and did not answer it in time."""
    if isinstance(record, JointExchange) or record.code != _LATE:
        return False
    return bool(record.context.worker) and record.total_ns >= STALLED_NS


class Outcome(msgspec.Struct, eq=False):
    """The requests of one caller that one worker had, of one variant.

    ``worker`` is empty for those that reached none. ``timed`` are those answered ones whose worker
    said how long they took, ``total_ns`` how long it kept them, ``run_ns`` how long their batches
    ran. ``longest_late_ns`` is how long the slowest of those was open that missed its deadline, and
    ``stalled`` how many of these a worker had for long, see ``stalled``.
    """

    variant: str
    worker: str
    caller: Caller
    answered: int = 0
    timed: int = 0
    failed: int = 0
    late: int = 0
    total_ns: int = 0
    run_ns: int = 0
    longest_late_ns: int = 0
    stalled: int = 0


Listener = Callable[[Sequence[Outcome]], None]


class Outcomes:
    """Subscriber of the exchange ring; hands sums to its listeners, off the request path."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def __call__(self, records: list[Record]) -> None:
        """Sum up a batch of exchanges."""
        sums: dict[tuple[str, str, Caller], Outcome] = {}
        outcome: Outcome | None = None
        variant = worker = principal = None
        for record in records:
            context = record.context
            if context.joined or _is_from_memory(record):
                # One run says one thing of a version and its worker, however many had its answer.
                continue
            # Neighbours mostly have everything in common, which identities tell quickly.
            if (
                context.variant is not variant
                or context.worker is not worker
                or context.principal is not principal
                or outcome is None
            ):
                variant, worker, principal = context.variant, context.worker, context.principal
                caller = (principal.tenant, principal.name)
                outcome = sums.get((variant, worker, caller))
                if outcome is None:
                    outcome = Outcome(variant, worker, caller)
                    sums[(variant, worker, caller)] = outcome
            timing = None if isinstance(record, JointExchange) else record.timing
            if timing is not None:
                outcome.answered += 1
                outcome.timed += 1
                outcome.total_ns += timing.queue_ns + timing.run_ns
                outcome.run_ns += timing.run_ns
            else:
                _add(outcome, record)
        found = [outcome for outcome in sums.values() if outcome.variant]
        if found:
            for listener in self._listeners:
                listener(found)


def _is_from_memory(record: Record) -> bool:
    """Tell whether a request was answered without a worker."""
    return not isinstance(record, JointExchange) and record.timing is None and not record.code


def _add(outcome: Outcome, record: Record) -> None:
    if isinstance(record, JointExchange):
        # They ran together, and waited about as long.
        count, timing = len(record), record.timings[0]
        outcome.answered += count
        outcome.timed += count
        outcome.total_ns += count * (timing.queue_ns + timing.run_ns)
        outcome.run_ns += count * timing.run_ns
    elif record.code in FAILURES:
        outcome.failed += 1
    elif record.code == _LATE:
        outcome.late += 1
        outcome.stalled += stalled(record)
        outcome.longest_late_ns = max(outcome.longest_late_ns, record.total_ns)
