"""Which versions ran in processes that were lost, so that control knows whose work it was."""

from collections import deque
from collections.abc import Iterable

from salver.engine.client.pending import Pending
from salver.wire.deaths import Death

_MAX_DEATHS = 32


class DeathNotes:
    """The newest lost processes in which requests of this gateway ran."""

    def __init__(self) -> None:
        self._newest: deque[Death] = deque(maxlen=_MAX_DEATHS)

    def note(
        self, worker: str, pid: int, pending: Iterable[Pending], unheard: Iterable[str] = ()
    ) -> None:
        """Take note of what was open when a link was lost; what only waited there is no cause.

        ``unheard`` are versions of requests that nobody waited for any more, and which ran.
        """
        running = {one.route.plan.id for one in pending if one.started}.union(unheard)
        if running:
            self._newest.append(Death(worker, pid, tuple(sorted(running))))

    def newest(self) -> tuple[Death, ...]:
        """Return the notes, the oldest first."""
        return tuple(self._newest)
