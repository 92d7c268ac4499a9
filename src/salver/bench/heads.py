"""Header blocks (HPACK, RFC 7541) of gRPC calls out, and of their answers in.

What stays is put into the server's table by the first call of a connection, as gRPC's clients do
it, and is a byte each in every other.
"""

from collections.abc import Mapping

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from salver.bench.frames import MalformedAnswer
from salver.bench.target import Target
from salver.core.errors import InvalidSettings

PATH = "/inference.GRPCInferenceService/ModelInfer"
TABLE_BYTES = 4096
_ENTRY_BYTES = 32
_FIRST_DYNAMIC = 62
_INDEXED, _ADDED, _NEVER_INDEXED, _RESIZED = 0x80, 0x40, 0x10, 0x20
_NO_TABLE = bytes((_RESIZED,))
_SHORT = 0x7F
_HUFFMAN = 0x80
_MORE = 0x80
_MAX_BLOCK_BYTES = 8192
_MAX_DIGITS = 99_999_999
_NS_PER_US, _NS_PER_MS = 1000, 1_000_000
_STATIC = HeaderTable.STATIC_TABLE

Fields = Mapping[bytes, bytes]


class Heads:
    """The header blocks of all calls to one target; the same for every connection."""

    def __init__(self, target: Target, api_key: str) -> None:
        fields = {
            ":method": "POST",
            ":scheme": "http" if target.tls is None else "https",
            ":path": PATH,
            ":authority": target.authority,
            "te": "trailers",
            "content-type": "application/grpc",
        }
        if api_key:
            fields["authorization"] = f"Bearer {api_key}"
        self._fields = [(name.encode(), value.encode()) for name, value in fields.items()]

    def check(self) -> None:
        """Raise ``InvalidSettings`` for what cannot stand in a header."""
        for name, value in self._fields:
            if any(byte in value for byte in b"\r\n\0") or value.strip() != value:
                raise InvalidSettings(
                    f"the key or the address holds a line break or a blank that {name.decode()} "
                    "must not have; check --api-key"
                )
        if len(b"".join(self._literals(_NEVER_INDEXED))) > _MAX_BLOCK_BYTES:
            raise InvalidSettings(f"the key is longer than {_MAX_BLOCK_BYTES} bytes can hold")

    def blocks(self, table_bytes: int) -> tuple[bytes, bytes]:
        """Return the first block of a connection and that of its other calls, without a deadline.

        ``table_bytes`` is how large the server's table may be.
        """
        size = sum(len(name) + len(value) + _ENTRY_BYTES for name, value in self._fields)
        if table_bytes < TABLE_BYTES or size > TABLE_BYTES:
            whole = b"".join(self._literals(_NEVER_INDEXED))
            return _NO_TABLE + whole, whole
        last = _FIRST_DYNAMIC + len(self._fields) - 1
        indices = bytes(_INDEXED | index for index in range(last, _FIRST_DYNAMIC - 1, -1))
        return b"".join(self._literals(_ADDED)), indices

    def _literals(self, kind: int) -> list[bytes]:
        return [bytes((kind,)) + _string(name) + _string(value) for name, value in self._fields]


_DEADLINE = bytes((_NEVER_INDEXED,)) + b"\x0cgrpc-timeout\x09"
DEADLINE_BYTES = len(_DEADLINE) + 9


def deadline(left_ns: int) -> bytes:
    """Return ``grpc-timeout`` as a field that is never put into a table; always equally long."""
    microseconds = left_ns // _NS_PER_US
    if microseconds <= _MAX_DIGITS:
        return _DEADLINE + b"%08du" % max(microseconds, 1)
    return _DEADLINE + b"%08dm" % min(left_ns // _NS_PER_MS, _MAX_DIGITS)


def fields_of(block: bytes) -> Fields:
    """Read a block of a server that was told to keep no table; raises ``MalformedAnswer``.

    Literals as they are, which servers in a hurry send, are read here, everything else by hpack.
    """
    fields = _plain_fields(block)
    if fields is None:
        try:
            fields = dict(Decoder().decode(block, raw=True))
        except (HPACKError, ValueError, IndexError, OverflowError) as error:
            raise MalformedAnswer("a header block cannot be decoded") from error
    return fields


def _plain_fields(block: bytes) -> dict[bytes, bytes] | None:
    """Return the fields of a block of indices and plain literals of one-byte lengths, or None."""
    fields: dict[bytes, bytes] = {}
    at, end = 0, len(block)
    try:
        while at < end:
            kind = block[at]
            if kind > _INDEXED:
                name, value = _STATIC[kind - _INDEXED - 1]
                at += 1
            elif kind in (0, _NEVER_INDEXED):
                name, at = _read(block, at + 1)
                value, at = _read(block, at)
            else:
                return None
            fields[name] = value
    except (IndexError, ValueError):
        return None
    return fields


def _read(block: bytes, at: int) -> tuple[bytes, int]:
    size = block[at]
    begin = at + 1
    stop = begin + size
    if size >= _SHORT or stop > len(block):
        raise ValueError("a longer or a Huffman-coded string")
    return block[begin:stop], stop


def _string(text: bytes) -> bytes:
    """Return a string as it is, with its length (5.2)."""
    size = len(text)
    if size < _SHORT:
        return bytes((size,)) + text
    rest, parts = size - _SHORT, [_SHORT]
    while rest >= _MORE:
        parts.append(rest % _MORE | _MORE)
        rest //= _MORE
    return bytes((*parts, rest)) + text
