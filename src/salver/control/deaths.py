"""Whose work ran in workers' processes when they ended: what may be held against a version."""

from collections.abc import Collection

from salver.control.desired import QUARANTINE
from salver.wire.deaths import Death

_MAX_PROCESSES = 1024


class _Process:
    """One process: what it hosted and the plan of then, if it ended unasked, and what ran in it.

    ``known_ns`` is when the end was first told.
    """

    __slots__ = ("hosted", "known_ns", "plan", "ran")

    def __init__(self) -> None:
        self.hosted: frozenset[str] | None = None
        self.plan = 0
        self.known_ns = 0
        self.ran: set[str] = set()

    def is_of(self, variant: str) -> bool:
        """Tell whether nothing but this version can be the cause."""
        return {variant} in (self.hosted, self.ran)


class Deaths:
    """The newest processes that ended.

    The supervisor says which ends nobody had asked for, and only those count. Gateways, and whoever
    else asks workers, say what ran then. Saying it again changes nothing.
    """

    def __init__(self) -> None:
        self._processes: dict[tuple[str, int], _Process] = {}

    def ended(self, death: Death, now_ns: int = 0) -> None:
        """Take what the supervisor says."""
        process = self._process(death.worker, death.pid)
        if process.hosted is None:
            process.known_ns = now_ns
        process.hosted, process.plan = frozenset(death.variants), death.plan

    def ran(self, worker: str, pid: int, variants: Collection[str]) -> None:
        """Take note that these versions were at work when a process was lost."""
        if variants:
            self._process(worker, pid).ran.update(variants)

    def of(self, variant: str, after_plan: int, until_ns: int | None = None) -> int:
        """Return how many processes ended because of a version, under plans after this one.

        Ends that became known after ``until_ns`` do not count yet: somebody may still say what
        else ran then, and whoever takes note of a count does not take it back.

        Those count that hosted nothing else, or in which nothing else ran. Where others ran as
        well, what ran is tried again in quarantine: an end there, of its work alone, makes one
        such end its own. The retry after an end that is its own anyway counts for nothing more.
        """
        own = mixed = proven = 0
        for (worker, _), process in self._processes.items():
            if process.hosted is None or process.plan <= after_plan:
                continue
            if until_ns is not None and process.known_ns > until_ns:
                continue
            is_own = process.is_of(variant)
            if worker.startswith(QUARANTINE):
                proven += is_own
            else:
                own += is_own
                mixed += not is_own and variant in process.ran
        return max(own, min(own + mixed, proven))

    def _process(self, worker: str, pid: int) -> _Process:
        key = (worker, pid)
        found = self._processes.get(key)
        if found is None:
            while len(self._processes) >= _MAX_PROCESSES:
                del self._processes[next(iter(self._processes))]
            found = self._processes[key] = _Process()
        return found
