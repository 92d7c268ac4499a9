"""Header blocks of the usual kind, decoded without the general decoder.

gRPC's C library sends changing fields (a deadline, a trace) as plain literals; Go's and most
proxies Huffman-code them and put them into the table, each time anew. A few slices do for either. A
block with anything else is left to ``hpack``, and a test holds both to the same answers.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hpack.exceptions import InvalidTableIndex
from hpack.table import HeaderTable

from salver.gateway.h2.huffman import decoded

Pair = tuple[bytes, bytes]

_STATIC: tuple[Pair, ...] = HeaderTable.STATIC_TABLE
_STATIC_COUNT: Final = len(_STATIC)
_INDEXED: Final = 0x80
_INDEX_MASK: Final = 0x7F
_INSERTED: Final = 0x40
_INSERTED_MASK: Final = 0x3F
_RESIZES: Final = 0x20
_LITERAL_MASK: Final = 0x0F
_HUFFMAN: Final = 0x80
_LENGTH_MASK: Final = 0x7F


class Literal(NamedTuple):
    """A field with its value, and with its name unless that stands at ``place`` in the table."""

    inserted: bool
    place: int
    name: bytes
    value: bytes


Parsed = int | Literal
"""A field of a block: the index of a whole one, or a literal."""


def parse(block: bytes) -> list[Parsed] | None:
    """Return a block's fields (RFC 7541, 6.1, 6.2); None leaves it to the general decoder.

    Needs no table and changes none. Returns None for broken blocks too.
    """
    fields: list[Parsed] = []
    position, end = 0, len(block)
    try:
        while position < end:
            first = block[position]
            position += 1
            if first & _INDEXED:
                index = first & _INDEX_MASK
                if index == _INDEX_MASK:
                    index += _small(block[position])
                    position += 1
                fields.append(index)
                continue
            mask = _INSERTED_MASK if first & _INSERTED else _LITERAL_MASK
            if mask == _LITERAL_MASK and first & _RESIZES:
                return None
            index = first & mask
            if index == mask:
                index += _small(block[position])
                position += 1
            name = b""
            if not index:
                name, position = _string(block, position)
            value, position = _string(block, position)
            fields.append(Literal(mask == _INSERTED_MASK, index, name, value))
    except LookupError:
        return None
    return fields


def changes_table(fields: list[Parsed]) -> bool:
    """Tell whether the table is another one after these fields."""
    return any(not isinstance(field, int) and field.inserted for field in fields)


def resolve(fields: list[Parsed], table: HeaderTable) -> list[Pair]:
    """Return names and values, and put into the table what belongs there.

    Raises ``InvalidTableIndex``; the table is of no use then.
    """
    pairs: list[Pair] = []
    dynamic = table.dynamic_entries
    for field in fields:
        if isinstance(field, int):
            pairs.append(_entry(field, dynamic))
            continue
        inserted, place, name, value = field
        pair = (_entry(place, dynamic)[0] if place else name, value)
        if inserted:
            table.add(*pair)
        pairs.append(pair)
    return pairs


def _entry(place: int, dynamic: Sequence[Pair]) -> Pair:
    """Return an entry of the joint table (RFC 7541, 2.3.3); raises ``InvalidTableIndex``."""
    try:
        if 0 < place <= _STATIC_COUNT:
            return _STATIC[place - 1]
        if place:
            return dynamic[place - _STATIC_COUNT - 1]
    except IndexError:
        pass
    raise InvalidTableIndex(f"there is no entry {place}")


def _small(byte: int) -> int:
    """Return the rest of an integer that ends with this byte; raises ``LookupError`` otherwise."""
    if byte & _INDEXED:
        raise LookupError
    return byte


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """Return a string and where it ends; raises ``LookupError`` for a broken or huge one."""
    first = block[position]
    start, size = position + 1, first & _LENGTH_MASK
    if size == _LENGTH_MASK:
        more = block[start]
        start += 1
        size += more & _LENGTH_MASK
        if more & _INDEXED:
            size += _small(block[start]) << 7
            start += 1
    stop = start + size
    if stop > len(block):
        raise LookupError
    text = block[start:stop]
    return (decoded(text) if first & _HUFFMAN else text), stop
