"""What a worker lets know of itself: whether its event loop comes round, and whether it answers."""

from pathlib import Path
from typing import Final

from salver.core.errors import WireError
from salver.core.settings import EngineSettings
from salver.wire.connection import Connection
from salver.wire.pings import FIRST_PING_VERSION, Ping
from salver.wire.pulse import read

_LATE_NS: Final = 2_000_000_000


class Signs:
    """The signs of one worker, as one gateway sees them.

    ``heard`` is set by whoever gets something from it, ``replied`` if that is only a reply to our
    question, ``loads`` while it says that a model is on its way.
    ``silent``: its loop does not come round. On this machine, in ``folder``, that can be read;
    elsewhere it is asked over the ``connection`` while it owes answers, one question at a time.
    ``stalled``: it owes answers and nothing has come, though its loop may live: a long run, or one
    that never ends.
    """

    def __init__(self, folder: Path | None, worker: str) -> None:
        self._folder = folder
        self._worker = worker
        self._heard_ns = self._asked_ns = self._looked_ns = 0
        self._unsent_bytes = self._begun_bytes = 0
        self.connection: Connection | None = None
        self.heard = self.replied = self.silent = self.stalled = self.loads = False

    def look(self, now_ns: int, limit_ns: int, *, owes: bool) -> bool:
        """Judge by what was seen until now; True if the worker has just fallen silent."""
        was_away, self._looked_ns = now_ns - self._looked_ns > _LATE_NS, now_ns
        if self.replied or self.heard:
            self.replied, self._asked_ns = False, 0
        elif was_away and self._asked_ns:
            # It was this process that stood still, and the reply may not be read yet.
            self._asked_ns = now_ns
        if self.heard or not owes:
            self.heard, self._heard_ns = False, now_ns
        self.stalled = now_ns - self._heard_ns > limit_ns
        before = self.silent
        if self._folder is None:
            self.silent = self._is_mute(now_ns, limit_ns, owes=owes)
        elif owes or before:
            beat = read(self._folder, self._worker)
            self.silent = beat is not None and now_ns - beat.beaten_ns > limit_ns
        return self.silent and not before

    def cut_if_gone(self, now_ns: int, settings: EngineSettings) -> None:
        """Break the link to a worker on another machine that has said nothing for too long.

        Here the supervisor would end its process. One that loads has the time that loads have.
        """
        allowed_s = settings.load_timeout_s if self.loads else 0.0
        silent_s = max(settings.unresponsive_s, settings.silent_s, allowed_s)
        is_gone = self._asked_ns > 0 and now_ns - self._asked_ns > silent_s * 1e9
        if is_gone and self.connection is not None:
            told = f"worker {self._worker} gave no sign of life for {silent_s:g} s"
            self.connection.abort(WireError(told))

    def forget(self) -> None:
        """Begin anew, since the process is gone."""
        self.silent = self.stalled = self.replied = self.loads = False
        self.connection, self._asked_ns = None, 0
        self.heard = True

    def _is_mute(self, now_ns: int, limit_ns: int, *, owes: bool) -> bool:
        """Tell whether a question was not answered; ask one where none is open."""
        connection = self.connection
        peer = None if connection is None else connection.peer
        if connection is None or peer is None or peer.version < FIRST_PING_VERSION:
            return False
        unsent, self._unsent_bytes = self._unsent_bytes, connection.buffered_bytes
        begun, self._begun_bytes = self._begun_bytes, connection.begun_bytes
        if self._asked_ns and (self._unsent_bytes < unsent or self._begun_bytes != begun):
            # The question waits behind a large request, or its reply behind a large answer.
            self._asked_ns = now_ns
        if not self._asked_ns:
            if owes:
                self._asked_ns = now_ns
                connection.send(Ping(0))
            return False
        return now_ns - self._asked_ns > limit_ns
