"""What the processes say of a rollout's two versions."""

from typing import NamedTuple

from salver.control.desired import Desired, Observed
from salver.control.hosts import failure, placement, ready_workers
from salver.rollout.machine import Rollout


class Facts(NamedTuple):
    """Who can answer, what could not be loaded, and how many of the canary's own workers ended."""

    is_ready: bool
    is_primary_ready: bool
    failure: str
    crashes: int


class Watcher:
    """Remembers which process each worker was; a restarted control begins anew."""

    def __init__(self) -> None:
        self._incarnations: dict[tuple[str, int, str], str] = {}

    def facts(
        self, rollout: Rollout, wish: Desired, observed: Observed, incarnations: dict[str, str]
    ) -> Facts:
        """Return what is seen of a rollout."""
        primary, *arms = wish.each()
        canary = next(
            (arm for arm in arms if arm.version is not None and arm.version.id == rollout.target),
            None,
        )
        is_primary_ready = bool(ready_workers(primary, observed))
        if canary is None:
            return Facts(False, is_primary_ready, "", 0)
        ready = ready_workers(canary, observed)
        workers = placement(canary, observed)
        connected = [worker for worker in workers if worker in observed.workers]
        failed = failure(canary, observed)
        own = set(workers) - set(placement(primary, observed))
        return Facts(
            bool(ready) and len(ready) == len(connected),
            is_primary_ready,
            failed.error or failed.code if failed is not None else "",
            sum(self._has_ended(rollout, worker, incarnations) for worker in own),
        )

    def forget(self, rollout: Rollout) -> None:
        """Forget an ended rollout."""
        key = (rollout.endpoint, rollout.number)
        for known in [each for each in self._incarnations if each[:2] == key]:
            del self._incarnations[known]

    def _has_ended(self, rollout: Rollout, worker: str, incarnations: dict[str, str]) -> bool:
        present = incarnations.get(worker)
        if present is None:
            return False
        key = (rollout.endpoint, rollout.number, worker)
        before = self._incarnations.get(key)
        self._incarnations[key] = present
        return before is not None and before != present
