"""Compressed bodies, with a cap on what they inflate to."""

import zlib
from collections.abc import Sequence

from salver.core.errors import BodyTooLarge, MalformedHttp, UnsupportedEncoding
from salver.gateway.http.message import Buffer

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_WINDOWS = {b"gzip": _GZIP_WINDOW, b"x-gzip": _GZIP_WINDOW, b"deflate": zlib.MAX_WBITS}
_LEVEL = 1


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
    inflater = zlib.decompressobj(window)
    try:
        data = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedHttp(f"the {name.decode()} body is damaged: {error}") from error
    if len(data) > max_bytes:
        raise BodyTooLarge(f"the body inflates to more than {max_bytes} bytes; send it in parts")
    if not inflater.eof or inflater.unused_data:
        raise MalformedHttp(f"the {name.decode()} body is cut short or has surplus data")
    return data


def deflate(parts: Sequence[Buffer], accepted: bytes) -> tuple[list[Buffer], bytes]:
    """Compress an answer if the client asked for it; returns the parts and a header line."""
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
