"""Header blocks from any bytes: however they are read, they mean what `hpack` says they mean."""

import contextlib

from hpack import Decoder

from salver.gateway.h2.frames import ConnectionFault, StreamFault
from salver.gateway.h2.headers import (
    TABLE_BYTES,
    HeaderDecoder,
    announced_bytes,
    check_trailers,
    request_fields,
)
from salver.gateway.h2.quick import Pair, decode_quickly

LIST_BYTES = 8192


def examine(data: bytes) -> None:
    """Decode blocks, each behind its length in one byte, on one connection, and each twice."""
    ours, theirs = HeaderDecoder(LIST_BYTES), Decoder(LIST_BYTES)
    theirs.max_allowed_table_size = TABLE_BYTES
    while data:
        size = data[0]
        block, data = data[1 : 1 + size], data[1 + size :]
        for _ in range(2):
            entries = tuple(theirs.header_table.dynamic_entries)
            expected = _decoded(theirs, block)
            quick = decode_quickly(block, entries)
            assert quick is None or expected in (None, quick), "the quick way differs"
            try:
                found = ours.decode(block)
            except ConnectionFault:
                found = None
            assert found == expected
            if found is None:
                return
            _check_fields(ours, block, found)


def _decoded(theirs: Decoder, block: bytes) -> tuple[Pair, ...] | None:
    """Return what `hpack` makes of a block, None when it refuses it."""
    try:
        return tuple([(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)])
    except Exception:  # it does not say which errors it raises
        return None


def _check_fields(ours: HeaderDecoder, block: bytes, pairs: tuple[Pair, ...]) -> None:
    """Read the fields as a request's and as trailers, which may be malformed and nothing worse."""
    try:
        fields = request_fields(1, pairs)
        if block in ours._known:
            # Else reading it once more would change the table once more.
            assert ours.request(1, block) == fields
        size = announced_bytes(1, fields.get(b"content-length"))
        assert size is None or size >= 0
    except StreamFault:
        pass
    with contextlib.suppress(StreamFault):
        check_trailers(1, pairs)
