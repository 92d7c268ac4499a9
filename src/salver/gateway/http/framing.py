"""Where a request ends: what must be unambiguous, and the memory a large body arrives in."""

import mmap
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

import numpy as np

from salver.core.errors import MalformedHttp, Overloaded

HEAD_END = b"\r\n\r\n"
_VERSIONS = ("1.0", "1.1")
_PIECE_BYTES = 2048
# Fields that change where a body ends, how it is read or who sends it: one of each at most.
SINGLE_FIELDS = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"host",
        b"inference-header-content-length",
        b"transfer-encoding",
        b"x-api-key",
    )
)


def check_framing(version: str, method: bytes, headers: Mapping[bytes, bytes]) -> None:
    """Raise ``MalformedHttp`` for what another server on the way could read differently.

    RFC 9112, 3.2 (Host) and 6 (message body length). llhttp refuses the rest: two lengths, signs,
    bare line feeds, folded fields, spaces before the colon.
    """
    if version not in _VERSIONS:
        raise MalformedHttp(f"HTTP/{version} is not spoken here; send HTTP/1.1")
    if method == b"CONNECT":
        raise MalformedHttp("this is not a proxy; CONNECT is not supported")
    if version == "1.1" and b"host" not in headers:
        raise MalformedHttp("an HTTP/1.1 request needs a Host header")
    encoding = headers.get(b"transfer-encoding")
    if encoding is None:
        return
    if encoding.strip().lower() != b"chunked":
        raise MalformedHttp("the only transfer encoding that is read is 'chunked'")
    if version == "1.0" or b"content-length" in headers:
        raise MalformedHttp("chunked bodies take HTTP/1.1 and no Content-Length")


def piece_end(data: bytes, start: int, missing_bytes: int) -> int:
    """Return where to stop parsing for a look at how many requests there are already.

    Of the requests of a piece, at most two end after its first 2 KiB: one with a body, and one
    without. Nothing is cut off the ``missing_bytes`` of a body that has begun.
    """
    least = start + max(missing_bytes, _PIECE_BYTES)
    if least >= len(data):
        return len(data)
    if missing_bytes >= _PIECE_BYTES:
        return least
    found = data.find(HEAD_END, least - len(HEAD_END))
    return len(data) if found < 0 else found + len(HEAD_END)


def body_buffer(size_bytes: int) -> memoryview:
    """Return a buffer whose pages take no memory until bytes are written to them.

    Raises ``Overloaded`` when the address space has no room for it.
    """
    try:
        return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:
        raise Overloaded(
            f"no room for a body of {size_bytes} bytes: {error.strerror}", retry_after_s=1.0
        ) from error


def take_large_pages(buffer: memoryview) -> None:
    """Ask for huge pages for what is still untouched: a fault for each 2 MB instead of each 4 KB.

    To be called once a good part has arrived, or a single byte would cost 2 MB.
    """
    owner = buffer.obj
    mapping = cast(memoryview, owner.base).obj if isinstance(owner, np.ndarray) else owner
    with suppress(OSError):  # a kernel without huge pages
        cast(mmap.mmap, mapping).madvise(mmap.MADV_HUGEPAGE)
