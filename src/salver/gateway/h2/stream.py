"""One stream: a request that arrives, and the answer that leaves under flow control."""

from collections import deque
from collections.abc import Callable

import msgspec

from salver.gateway.h2.headers import Fields
from salver.gateway.http.body import Body, Buffer


class Stream(msgspec.Struct, eq=False):
    """State of one stream (RFC 9113, 5.1), from its HEADERS until both sides have ended.

    ``remote_open`` tells that the client may still send, ``owed_bytes`` how much window it has not
    got back, ``answered`` that the answer is on its way. ``outgoing`` is what flow control holds
    back, if it ever did; ``ends`` that nothing comes after it but ``trailers``. ``on_gone`` is
    called once when the client gives up. ``rate_from_*`` is where the rate of its body is measured
    from, if that is not its beginning.
    """

    id: int
    fields: Fields
    send_window: int
    receive_window: int
    begun_ns: int
    body: Body
    announced_bytes: int | None = None
    owed_bytes: int = 0
    remote_open: bool = True
    answered: bool = False
    outgoing: deque[Buffer] | None = None
    trailers: bytes | None = None
    ends: bool = False
    progress_ns: int = 0
    rate_from_ns: int = 0
    rate_from_bytes: int = 0
    on_gone: Callable[[], None] | None = None
