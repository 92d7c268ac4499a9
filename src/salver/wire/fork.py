"""What the supervisor and the processes that a zygote forks say to each other.

Each message is one packet of a Unix socket that both inherited; descriptors travel with it. The
supervisor sends ``Fork`` to the zygote with the socket of the child to be. The child says ``Born``
there, and waits for ``Begin`` with its log, and the socket it shall listen at if there is one.
"""

import array
import socket
from collections.abc import Sequence

import msgspec

from salver.core.errors import WireError

_MAX_BYTES = 64 * 1024
_MAX_DESCRIPTORS = 4
_INT_BYTES = array.array("i").itemsize


class Fork(msgspec.Struct, frozen=True, tag=1):
    """Fork a process; ``supervisor`` is the pid of the one that it shall belong to."""

    supervisor: int


class Born(msgspec.Struct, frozen=True, tag=2):
    """A child of the supervisor waits at this socket."""

    pid: int


class Begin(msgspec.Struct, frozen=True, tag=3):
    """Become a worker with these arguments.

    The first descriptor is its log; the second, if any, the socket that it listens at.
    """

    arguments: tuple[str, ...]


ForkMessage = Fork | Born | Begin


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a link; neither is inherited unless somebody says so."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def tell(end: socket.socket, message: ForkMessage, descriptors: Sequence[int] = ()) -> None:
    """Send a message; raises ``OSError`` when nobody can take it."""
    socket.send_fds(end, [msgspec.msgpack.encode(message)], list(descriptors))


def hear(end: socket.socket) -> tuple[ForkMessage, list[int]] | None:
    """Return the next message and its descriptors, None when the other side is gone.

    Raises ``WireError`` for what is no message, and ``BlockingIOError`` where ``end`` does not
    block. Descriptors are not inherited by other programs.
    """
    size = socket.CMSG_SPACE(_MAX_DESCRIPTORS * _INT_BYTES)
    data, ancillary, _, _ = end.recvmsg(_MAX_BYTES, size, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % _INT_BYTES])
    if not data:
        return None
    try:
        message = msgspec.msgpack.decode(data, type=ForkMessage)
    except msgspec.MsgspecError as error:
        raise WireError(f"a packet between supervisor and zygote cannot be read: {error}") from None
    return message, descriptors.tolist()
