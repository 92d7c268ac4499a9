"""Compressed bodies, with a cap on what they inflate to."""

import zlib
from collections.abc import Iterator, Sequence

from salver.core.errors import BodyTooLarge, MalformedHttp, UnsupportedEncoding
from salver.gateway.http.message import Buffer

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_WINDOWS = {b"gzip": _GZIP_WINDOW, b"x-gzip": _GZIP_WINDOW, b"deflate": zlib.MAX_WBITS}
_LEVEL = 1
MAX_DEFLATED_BYTES = 1024 * 1024
"""Longer answers, a few tens of milliseconds of work, would hold up the others of the loop."""
_FED_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024
_UNSURE_BYTES = 16 * 1024 * 1024


def inflate(body: Buffer, encoding: bytes, max_bytes: int) -> Buffer:
    """Return the body as it was before ``Content-Encoding``.

    Raises ``UnsupportedEncoding`` for anything but gzip and deflate, ``BodyTooLarge`` before more
    than ``max_bytes`` are inflated, and ``MalformedHttp`` for damaged data.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    window = _WINDOWS.get(name)
    if window is None:
        raise UnsupportedEncoding(
            f"content encoding {encoding[:40].decode('latin-1')!r} is not read; send gzip, deflate "
            "or none"
        )
    try:
        return _inflated(memoryview(body), window, max_bytes)
    except (zlib.error, EOFError) as error:
        raise MalformedHttp(f"the {name.decode()} body is damaged: {error}") from error


def _inflated(body: memoryview, window: int, max_bytes: int) -> bytearray:
    """Return inflated data; raises ``zlib.error``, ``EOFError`` or ``BodyTooLarge``."""
    data = bytearray()
    for piece in _pieces(body, window):
        if len(data) < _UNSURE_BYTES <= len(data) + len(piece):
            # More than that is kept only of data that is known to end in time.
            size = 0
            for again in _pieces(body, window):
                size += len(again)
                _check_size(size, max_bytes)
        data += piece
        _check_size(len(data), max_bytes)
    return data


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise BodyTooLarge(f"the body inflates to more than {max_bytes} bytes; send it in parts")


def _pieces(body: memoryview, window: int) -> Iterator[bytes]:
    """Give inflated data in pieces; raises ``zlib.error``, ``EOFError`` for what has no end."""
    inflater = zlib.decompressobj(window)
    for start in range(0, body.nbytes, _FED_BYTES):
        fed: Buffer = body[start : start + _FED_BYTES]
        while len(fed) and not inflater.eof:
            yield inflater.decompress(fed, _PIECE_BYTES)
            fed = inflater.unconsumed_tail
        if inflater.eof and (len(fed) or inflater.unused_data):
            raise EOFError("there is surplus data behind its end")
    while not inflater.eof:
        piece = inflater.decompress(b"", _PIECE_BYTES)
        if not piece:
            raise EOFError("it is cut short")
        yield piece


def deflate(parts: Sequence[Buffer], accepted: bytes) -> tuple[list[Buffer], bytes]:
    """Compress an answer if the client asked for it; returns the parts and a header line.

    One of over ``MAX_DEFLATED_BYTES`` stays as it is.
    """
    size = sum([p.nbytes if isinstance(p, memoryview) else len(p) for p in parts])
    if size > MAX_DEFLATED_BYTES:
        return list(parts), b""
    for name, window in ((b"gzip", _GZIP_WINDOW), (b"deflate", zlib.MAX_WBITS)):
        if _accepts(accepted, name):
            deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, window)
            data = [deflater.compress(part) for part in parts]
            data.append(deflater.flush())
            return [b"".join(data)], b"Content-Encoding: %b\r\nVary: Accept-Encoding\r\n" % name
    return list(parts), b""


def _accepts(accepted: bytes, name: bytes) -> bool:
    for item in accepted.lower().split(b","):
        coding, _, parameters = item.partition(b";")
        if coding.strip() == name:
            return parameters.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False
