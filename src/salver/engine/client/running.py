"""What a worker was running for one link when it was lost, whoever waited for it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from salver.engine.client.pending import Pending
from salver.engine.ledger import Ledger, new_name
from salver.observe.logs import get_logger

log = get_logger(__name__)

_MAX_GIVEN_UP = 1024


class _GivenUp(msgspec.Struct):
    """A request that nobody waits for, though its worker may run it still."""

    variant: str
    started: bool


class Running:
    """The ledger of a link, and its newest requests that were given up without an answer.

    Of these nobody says when they end, so a worker may seem to run one for longer than it does.
    ``unheard`` are the versions of those that it seemed to run when the link was lost.
    """

    def __init__(self, folder: Path | None, worker: str) -> None:
        self._folder = folder
        self._worker = worker
        self._ledger: Ledger | None = None
        self._given_up: dict[int, _GivenUp] = {}
        self.unheard: frozenset[str] = frozenset()

    def watch(self) -> str:
        """Return the name of a new ledger, nothing where both sides cannot have one."""
        if self._folder is None:
            return ""
        try:
            name = new_name(self._worker)
            self._ledger = Ledger.create(self._folder, name)
        except OSError as error:
            log.warning("no_ledger", worker=self._worker, cause=str(error))
            return ""
        return name

    def noted(self) -> frozenset[int]:
        """Return the ids that the worker has noted."""
        return frozenset() if self._ledger is None else self._ledger.noted()

    def give_up(self, pending: Pending) -> None:
        """Take note that nobody waits for a request."""
        if len(self._given_up) >= _MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]
        self._given_up[pending.id] = _GivenUp(pending.route.plan.id, pending.started)

    def start(self, request_id: int) -> None:
        """Take note that the worker runs what may be given up."""
        one = self._given_up.get(request_id)
        if one is not None:
            one.started = True

    def answered(self, ids: Sequence[int]) -> None:
        """Forget what was given up and is over."""
        if self._given_up:
            for request_id in ids:
                self._given_up.pop(request_id, None)

    def end(self, pending: Iterable[Pending]) -> None:
        """Mark what ran when the link was lost, and close the ledger."""
        noted = self.noted()
        for request in pending:
            request.started = request.started or request.id in noted
        given_up, self._given_up = self._given_up, {}
        self.unheard = frozenset(
            [one.variant for key, one in given_up.items() if one.started or key in noted]
        )
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()
