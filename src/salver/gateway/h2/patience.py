"""How long a client may take to send a body, and to read an answer."""

import asyncio

from salver.core.settings import HttpSettings
from salver.gateway.h2.output import Output
from salver.gateway.h2.stream import Stream
from salver.gateway.h2.windows import ReceiveWindows
from salver.gateway.http.arrears import Unread
from salver.gateway.http.unread import Taking

_RATE_GRACE_S = 5.0
_SECOND_NS = 1e9


class Patience:
    """Tells for one connection who has kept us waiting for too long; asked now and then."""

    def __init__(self, settings: HttpSettings, windows: ReceiveWindows) -> None:
        self._settings = settings
        self._windows = windows
        self._taking = Taking(settings.body_timeout_s)

    def is_stalled(self, transport: asyncio.Transport, now_ns: int) -> bool:
        """Tell whether the client has stopped taking what was written for it."""
        return self._taking.is_stalled(transport, now_ns)

    def unread(
        self, transport: asyncio.Transport | None, output: Output, kept_bytes: int, now_ns: int
    ) -> Unread:
        """Return what waits for the client, with requests that wait until it reads."""
        moved_ns = max([one.progress_ns for one in output.waiting.values()], default=now_ns)
        return self._taking.unread(transport, output.held_bytes + kept_bytes, moved_ns, now_ns)

    def is_unread(self, stream: Stream, now_ns: int) -> bool:
        """Tell whether a client has not let a waiting answer go on for too long."""
        return bool(stream.outgoing) and self._still_s(stream, now_ns) > self._limit_s

    def is_late(self, stream: Stream, now_ns: int) -> bool:
        """Tell whether a body does not come, or too slowly."""
        if not stream.remote_open or stream.answered:
            return False
        if self._windows.withholds(stream):
            # The client cannot be late while it may not send.
            stream.progress_ns = stream.rate_from_ns = now_ns
            stream.rate_from_bytes = stream.body.size_bytes
            return False
        lasted_s = (now_ns - (stream.rate_from_ns or stream.begun_ns)) / _SECOND_NS
        slow = self._settings.min_body_rate_bytes_s * (lasted_s - _RATE_GRACE_S)
        came = stream.body.size_bytes - stream.rate_from_bytes
        return self._still_s(stream, now_ns) > self._limit_s or came < slow

    @property
    def _limit_s(self) -> float:
        return self._settings.body_timeout_s

    @staticmethod
    def _still_s(stream: Stream, now_ns: int) -> float:
        return (now_ns - stream.progress_ns) / _SECOND_NS
