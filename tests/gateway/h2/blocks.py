"""Header blocks from any bytes: however they are read, they mean what `hpack` says they mean."""

import contextlib

from hpack import Decoder

from salver.gateway.h2.frames import ConnectionFault, StreamFault
from salver.gateway.h2.headers import (
    TABLE_BYTES,
    Fields,
    HeaderDecoder,
    announced_bytes,
    check_trailers,
    request_fields,
)
from salver.gateway.h2.quick import Pair

LIST_BYTES = 8192


def examine(data: bytes) -> None:
    """Decode blocks, each behind its length in one byte, on one connection, and each twice."""
    ours, asked, theirs = HeaderDecoder(LIST_BYTES), HeaderDecoder(LIST_BYTES), Decoder(LIST_BYTES)
    theirs.max_allowed_table_size = TABLE_BYTES
    while data:
        size = data[0]
        block, data = data[1 : 1 + size], data[1 + size :]
        for _ in range(2):
            expected = _decoded(theirs, block)
            try:
                found = ours.decode(block)
            except ConnectionFault:
                found = None
            assert found == expected
            if found is None:
                return
            _check_fields(asked, block, found)


def _decoded(theirs: Decoder, block: bytes) -> tuple[Pair, ...] | None:
    """Return what `hpack` makes of a block, None when it refuses it."""
    try:
        return tuple([(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)])
    except Exception:  # it does not say which errors it raises
        return None


def _check_fields(asked: HeaderDecoder, block: bytes, pairs: tuple[Pair, ...]) -> None:
    """Read the fields as a request's and as trailers, which may be malformed and nothing worse."""
    fields: Fields | str
    found: Fields | str
    try:
        fields = request_fields(1, pairs)
    except StreamFault as fault:
        fields = str(fault)
    try:
        found = asked.request(1, block)
    except StreamFault as fault:
        found = str(fault)
    assert found == fields
    with contextlib.suppress(StreamFault):
        if not isinstance(fields, str):
            size = announced_bytes(1, fields.get(b"content-length"))
            assert size is None or size >= 0
    with contextlib.suppress(StreamFault):
        check_trailers(1, pairs)
