"""Whether a client takes what was written for it."""

import asyncio
import socket
import struct

# Of Linux's struct tcp_info: segments on their way, bytes acknowledged, bytes not sent yet.
_TCP_INFO = struct.Struct("=24xI92xQ16xI")


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
