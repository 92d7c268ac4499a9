"""Header lists over the limit: refused for one request, while the table stays what it must be.

A block that is too long to keep is read field by field as it comes. What it says first is kept, so
that the refusal speaks the caller's protocol; of the rest only what it does to the table counts.
"""

from collections.abc import Sequence
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from salver.gateway.h2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from salver.gateway.h2.quick import Pair, parse, resolve

MAX_REFUSED_BYTES: Final = 5 * 256 * 1024
"""A quarter more than the megabyte of metadata that clients are known to send by mistake."""
REFUSED_STEP_BYTES: Final = 32 * 1024
"""What is refused costs its connection as much as a stream given up, for each of these begun."""
_MAX_FIELDS: Final = 4096
# Of a longer string it is known, even in Huffman's code, that it does not fit into the table.
_MAX_KEPT_BYTES: Final = 32 * 1024
_FIELD_BYTES: Final = 32
_INDEXED: Final = 0x80
_INSERTED: Final = 0x40
_RESIZES: Final = 0x20
_HUFFMAN_MASK: Final = 0x7F
_NOT_PLAIN: Final = _INDEXED | _INSERTED | _RESIZES
_MORE: Final = 0x80
_MAX_SHIFT: Final = 28


class ListTooLong(Exception):
    """A header list is over the limit; ``pairs`` are those of its first fields that are not."""

    def __init__(self, pairs: Sequence[Pair], limit_bytes: int) -> None:
        super().__init__("the header list is over the limit (6.5.2)")
        self.pairs = within(pairs, limit_bytes)


def list_bytes(pairs: Sequence[Pair]) -> int:
    """Return the size of a header list (6.5.2)."""
    return sum([len(name) + len(value) + _FIELD_BYTES for name, value in pairs])


def within(pairs: Sequence[Pair], limit_bytes: int) -> list[Pair]:
    """Return the first fields of a list that are within a limit."""
    kept: list[Pair] = []
    for pair in pairs:
        limit_bytes -= list_bytes((pair,))
        if limit_bytes < 0:
            break
        kept.append(pair)
    return kept


def endless() -> ConnectionFault:
    """Return the fault of a block that is too much even to be refused."""
    return ConnectionFault(ENHANCE_YOUR_CALM, "a header block without end (10.5.1)")


def broken(error: Exception | str) -> ConnectionFault:
    """Return the fault of a block after which the table is unknown."""
    return ConnectionFault(
        COMPRESSION_ERROR, f"a header block cannot be decoded (4.3): {error}"[:200]
    )


class Skimmer:
    """Reads one block that is over the limit."""

    def __init__(self, decoder: Decoder, limit_bytes: int) -> None:
        self._decoder = decoder
        self._limit_bytes = limit_bytes
        self._pairs: list[Pair] = []
        self._list_bytes = 0
        self._field_count = 0
        self._has_fields = False
        self._pending = b""
        self._skipped_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises ``ConnectionFault``."""
        passed = min(self._skipped_bytes, len(data))
        self._skipped_bytes -= passed
        block = self._pending + data[passed:]
        position = 0
        while position < len(block):
            ends = _field_ends(block, position)
            if ends is None or ends[1] > len(block):
                break
            self._take(block[position : ends[1]])
            position = ends[1]
        self._pending = block[position:]
        if len(self._pending) > _MAX_KEPT_BYTES:
            self._skip_value()

    def finished(self) -> ListTooLong:
        """Return the refusal; raises ``ConnectionFault`` for a block that ends within a field."""
        if self._pending or self._skipped_bytes:
            raise broken("it ends within a field")
        return ListTooLong(self._pairs, self._limit_bytes)

    def _take(self, field: bytes) -> None:
        self._count()
        if field[0] & _NOT_PLAIN != _RESIZES:
            self._has_fields = True
        elif self._has_fields:
            raise broken("the table is resized behind a field")
        if self._list_bytes > self._limit_bytes and not field[0] & _NOT_PLAIN:
            # It changes nothing, and nobody reads it: its strings are not worth decoding.
            return
        try:
            parsed = parse(field)
            if parsed is not None:
                pairs = resolve(parsed, self._decoder.header_table)
            else:
                pairs = [(name, value) for name, value in self._decoder.decode(field, raw=True)]
        except OversizedHeaderListError:
            # It stands in the table all the same, if it belongs there.
            self._list_bytes = self._limit_bytes + 1
            return
        except (HPACKError, ValueError, IndexError, OverflowError) as error:
            raise broken(error) from error
        self._list_bytes += list_bytes(pairs)
        if self._list_bytes <= self._limit_bytes:
            self._pairs += pairs

    def _count(self) -> None:
        self._field_count += 1
        if self._field_count > _MAX_FIELDS:
            raise endless()

    def _skip_value(self) -> None:
        """Let the rest of a long value pass by."""
        block = self._pending
        ends = _field_ends(block, 0)
        if ends is None or ends[0] > len(block):
            raise endless()
        self._count()
        self._has_fields = True
        self._pending, self._skipped_bytes = b"", ends[1] - len(block)
        self._list_bytes = self._limit_bytes + 1
        if block[0] & _INSERTED:
            # What is larger than the table empties it (RFC 7541, 4.4).
            table = self._decoder.header_table
            table.add(b"", bytes(table.maxsize))


def _field_ends(block: bytes, position: int) -> tuple[int, int] | None:
    """Return where a field's value begins and ends; None while its lengths are not there.

    Both may lie beyond the block. Raises ``ConnectionFault``.
    """
    first = block[position]
    try:
        if first & _INDEXED:
            _, end = _integer(block, position, 0x7F)
            return end, end
        if first & (_INSERTED | _RESIZES) == _RESIZES:
            _, end = _integer(block, position, 0x1F)
            return end, end
        place, position = _integer(block, position, 0x3F if first & _INSERTED else 0x0F)
        if not place:
            size, position = _integer(block, position, _HUFFMAN_MASK)
            position += size
        size, start = _integer(block, position, _HUFFMAN_MASK)
    except IndexError:
        return None
    return start, start + size


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """Return an integer and where it ends (RFC 7541, 5.1); raises ``IndexError`` at the end."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & ~_MORE) << shift
        if byte < _MORE:
            return value, position
        shift += 7
        if shift > _MAX_SHIFT:
            raise broken("an integer is too long")
