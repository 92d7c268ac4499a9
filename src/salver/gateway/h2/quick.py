"""Header blocks that leave the dynamic table alone, decoded without the general decoder.

gRPC's own libraries send most fields as an index and changing ones (a deadline, a trace) as plain
literals. For those a few slices do; a block with anything else is left to ``hpack``, and a test
holds both to the same answers.
"""

from collections.abc import Sequence

from hpack.table import HeaderTable

Pair = tuple[bytes, bytes]

_STATIC: tuple[Pair, ...] = HeaderTable.STATIC_TABLE
_STATIC_COUNT = len(_STATIC)
_INDEXED = 0x80
_INDEX_MASK = 0x7F
_CHANGES_TABLE = 0x60
_LITERAL_MASK = 0x0F
_LONG_STRING = 0x7F


def decode_quickly(block: bytes, dynamic: Sequence[Pair]) -> tuple[Pair, ...] | None:
    """Return a block's fields (RFC 7541, 6.1, 6.2.2, 6.2.3); None leaves it to the general decoder.

    ``dynamic`` is the dynamic table, newest entry first. Returns None for broken blocks too.
    """
    pairs: list[Pair] = []
    position, end = 0, len(block)
    try:
        while position < end:
            first = block[position]
            position += 1
            if first & _INDEXED:
                pairs.append(_entry(first & _INDEX_MASK, dynamic))
            elif first & _CHANGES_TABLE:
                return None
            else:
                position = _literal(block, position, dynamic, pairs)
    except LookupError:
        return None
    return tuple(pairs)


def _literal(block: bytes, position: int, dynamic: Sequence[Pair], pairs: list[Pair]) -> int:
    """Add a literal field; returns where it ends. Raises ``LookupError`` for an unusual one."""
    index = block[position - 1] & _LITERAL_MASK
    if index == _LITERAL_MASK:
        if block[position] >= _INDEXED:
            raise LookupError
        index += block[position]
        position += 1
    if index:
        name = _entry(index, dynamic)[0]
    else:
        stop = _string_end(block, position)
        name, position = block[position + 1 : stop], stop
    stop = _string_end(block, position)
    pairs.append((name, block[position + 1 : stop]))
    return stop


def _entry(index: int, dynamic: Sequence[Pair]) -> Pair:
    """Return an entry of the joint table (RFC 7541, 2.3.3)."""
    if not 0 < index < _INDEX_MASK:
        raise LookupError
    return _STATIC[index - 1] if index <= _STATIC_COUNT else dynamic[index - _STATIC_COUNT - 1]


def _string_end(block: bytes, position: int) -> int:
    """Return where a short plain string ends; raises ``LookupError`` for any other."""
    size = block[position]
    stop = position + 1 + size
    if size >= _LONG_STRING or stop > len(block):
        raise LookupError
    return stop
