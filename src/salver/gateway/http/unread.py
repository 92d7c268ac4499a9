"""Whether a client takes what was written for it."""

import asyncio
import socket
import struct

from salver.gateway.http.arrears import Unread
from salver.gateway.http.patience import LINGER_S

# Of Linux's struct tcp_info: segments on their way, bytes acknowledged, bytes not sent yet.
_TCP_INFO = struct.Struct("=24xI92xQ16xI")


class Taking:
    """Tells of one connection whether its client still takes its answers; asked now and then.

    After the last one a client that speaks TLS has ``LINGER_S`` to say goodbye.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_ns = limit_s * 1e9
        self._mark, self._since_ns = -1, 0

    def is_stalled(self, transport: asyncio.Transport, now_ns: int) -> bool:
        """Tell whether the client has stopped taking what was written for it, or does not go."""
        mark = unread_mark(transport)
        if mark != self._mark or not (mark or transport.is_closing()):
            self._mark, self._since_ns = mark, now_ns
            return False
        return now_ns - self._since_ns > (self._limit_ns if mark else LINGER_S * 1e9)

    def unread(
        self, transport: asyncio.Transport | None, kept_bytes: int, moved_ns: int, now_ns: int
    ) -> Unread:
        """Return what waits for the client, with what is kept for it before the transport.

        ``moved_ns`` is when some of the latter has left, which counts while the former is empty.
        """
        waiting_bytes = 0 if transport is None else transport.get_write_buffer_size()
        since_ns = moved_ns if self._mark == 0 else self._since_ns
        return Unread(waiting_bytes + kept_bytes, now_ns if self._mark < 0 else since_ns)


def unread_mark(transport: asyncio.Transport) -> int:
    """Return 0 when nothing waits to be taken, else a number that changes when some of it is.

    The transport of TLS does not count what its socket has not taken yet, so that the kernel is
    asked how far the client has come.
    """
    if transport.get_extra_info("ssl_object") is None:
        return transport.get_write_buffer_size()
    connected = transport.get_extra_info("socket")
    try:
        facts = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        on_the_way, taken_bytes, waiting_bytes = _TCP_INFO.unpack(facts)
    except (OSError, struct.error):  # a socket that is closed, or a kernel that does not tell
        return transport.get_write_buffer_size()
    return 1 + taken_bytes if on_the_way or waiting_bytes else 0
