"""Header blocks: HPACK (RFC 7541) in and out, and what makes a request malformed (RFC 9113, 8).

Decoding a block costs more than all the rest of a small call, and clients send the same blocks
again and again. What a block means depends on its bytes and on the dynamic table alone, so a block
that left the table as it was means the same for as long as the table stays so.
"""

from collections.abc import Iterable, Sequence

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from salver.gateway.h2.frames import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    PROTOCOL_ERROR,
    ConnectionFault,
    StreamFault,
)
from salver.gateway.h2.quick import Pair, decode_quickly

Fields = dict[bytes, bytes]

TABLE_BYTES = 4096
_MAX_REMEMBERED = 256
_MAX_REMEMBERED_BYTES = 1024
_LENGTH_PREFIX = 127
_RESIZE_MASK, _RESIZE = 0xE0, 0x20
_FIELD_BYTES = 32
_LENGTH_DIGITS = 18
_MORE = 128
_NEED_AUTHORITY = frozenset((b"http", b"https"))
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
# Fields that speak of one HTTP/1.1 connection (8.2.2).
_CONNECTION_FIELDS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
# Fields that change how a request is read or who sends it: one of each at most.
_SINGLE = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"grpc-encoding",
        b"grpc-timeout",
        b"inference-header-content-length",
        b"x-api-key",
    )
)
_MAX_SOUND = 4096
_MAX_SOUND_BYTES = 256
_sound: set[Pair] = set()
_NAME_BYTES = frozenset(range(0x21, 0x7F)) - frozenset(range(0x41, 0x5B)) - {0x3A}


class HeaderDecoder:
    """Decodes the blocks of one connection."""

    def __init__(self, max_list_bytes: int) -> None:
        self._decoder = Decoder(max_list_bytes)
        self._max_list_bytes = max_list_bytes
        self._decoder.max_allowed_table_size = TABLE_BYTES
        self._known: dict[bytes, tuple[Pair, ...]] = {}
        self._requests: dict[bytes, Fields] = {}

    def request(self, stream: int, block: bytes) -> Fields:
        """Return the fields of a request; equal blocks share them, so nobody may change them.

        Raises ``ConnectionFault`` as ``decode``, and ``StreamFault`` as ``request_fields``.
        """
        fields = self._requests.get(block)
        if fields is None:
            fields = request_fields(stream, self.decode(block))
            if block in self._known:
                self._requests[block] = fields
        return fields

    def decode(self, block: bytes) -> tuple[Pair, ...]:
        """Return the fields of a block in order.

        Raises ``ConnectionFault``: after a block that cannot be decoded the table is unknown.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        entries = self._decoder.header_table.dynamic_entries
        quick = decode_quickly(block, entries)
        if quick is not None and _list_bytes(quick) <= self._max_list_bytes:
            self._keep(block, quick)
            return quick
        # The newest entry is kept at hand, so that no other can take its place unnoticed.
        newest, count = entries[0] if entries else None, len(entries)
        try:
            fields = tuple([(name, value) for name, value in self._decoder.decode(block, raw=True)])
        except OversizedHeaderListError as error:
            raise ConnectionFault(
                ENHANCE_YOUR_CALM, "the header list is over the limit (6.5.2)"
            ) from error
        except (HPACKError, ValueError, IndexError, OverflowError) as error:
            raise ConnectionFault(
                COMPRESSION_ERROR, f"a header block cannot be decoded (4.3): {error}"[:200]
            ) from error
        entries = self._decoder.header_table.dynamic_entries
        if len(entries) != count or (entries and entries[0] is not newest):
            self._forget()
        else:
            self._keep(block, fields)
        return fields

    def _keep(self, block: bytes, fields: tuple[Pair, ...]) -> None:
        # A change of the table's size must take place each time it comes (RFC 7541, 6.3).
        resizes = block[:1] and block[0] & _RESIZE_MASK == _RESIZE
        if len(block) <= _MAX_REMEMBERED_BYTES and not resizes:
            if len(self._known) >= _MAX_REMEMBERED:
                self._forget()
            self._known[block] = fields

    def _forget(self) -> None:
        self._known.clear()
        self._requests.clear()


def _list_bytes(pairs: Sequence[Pair]) -> int:
    """Return the size of a header list (6.5.2)."""
    return sum([len(name) + len(value) + _FIELD_BYTES for name, value in pairs])


def request_fields(stream: int, pairs: Iterable[Pair]) -> Fields:
    """Return the fields of a request; pseudo-fields keep their colon.

    Raises ``StreamFault`` for a malformed request (8.1.1).
    """
    fields: Fields = {}
    regular = False
    for pair in pairs:
        name, value = pair
        if pair not in _sound:
            _check(stream, pair)
        if name[:1] == b":":
            if regular:
                raise malformed(stream, "a pseudo-field follows a regular one (8.3)")
            if name in fields:
                raise malformed(stream, "a repeated pseudo-field (8.3)")
        else:
            regular = True
            if name in fields:
                _join(stream, fields, name, value)
                continue
        fields[name] = value
    if not fields.get(b":method") or not fields.get(b":scheme") or not fields.get(b":path"):
        raise malformed(stream, "a request needs :method, :scheme and :path (8.3.1)")
    _check_authority(stream, fields)
    return fields


def _check_authority(stream: int, fields: Fields) -> None:
    """Raise ``StreamFault`` unless it is clear whom a request is for, as HTTP/1.1 asks it too."""
    authority, host = fields.get(b":authority"), fields.get(b"host")
    if host is None:
        if not authority and fields[b":scheme"] in _NEED_AUTHORITY:
            raise malformed(stream, "a request needs :authority or host (8.3.1)")
    elif not host or (authority is not None and host.lower() != authority.lower()):
        raise malformed(stream, "host is not what :authority says (8.3.1)")


def check_trailers(stream: int, pairs: Iterable[Pair]) -> None:
    """Raise ``StreamFault`` for malformed trailers (8.1); what they say is not used."""
    for name, value in pairs:
        if name[:1] == b":":
            raise malformed(stream, "trailers have no pseudo-fields (8.1)")
        _check_field(stream, name, value)
        _check_value(stream, value)


def _check(stream: int, pair: Pair) -> None:
    """Raise ``StreamFault`` unless a field is sound by itself, and remember that it is."""
    name, value = pair
    if name[:1] != b":":
        _check_field(stream, name, value)
    elif name not in _PSEUDO:
        raise malformed(stream, "an unknown pseudo-field (8.3)")
    _check_value(stream, value)
    if len(name) + len(value) <= _MAX_SOUND_BYTES:
        if len(_sound) >= _MAX_SOUND:
            _sound.clear()
        _sound.add(pair)


def _check_field(stream: int, name: bytes, value: bytes) -> None:
    if not name or not _NAME_BYTES.issuperset(name):
        raise malformed(stream, "a field name has bytes that are not allowed (8.2.1)")
    if name in _CONNECTION_FIELDS or (name == b"te" and value != b"trailers"):
        raise malformed(stream, f"the field {name.decode()!r} is not allowed here (8.2.2)")


def _check_value(stream: int, value: bytes) -> None:
    if value.strip(b" \t") != value or b"\n" in value or b"\r" in value or b"\0" in value:
        raise malformed(stream, "a field value has bytes that are not allowed (8.2.1)")


def _join(stream: int, fields: Fields, name: bytes, value: bytes) -> None:
    """Add to a field that was there before."""
    if name in _SINGLE:
        raise malformed(stream, f"the field {name.decode()!r} was sent twice")
    separator = b"; " if name == b"cookie" else b", "
    fields[name] = fields[name] + separator + value


def announced_bytes(number: int, value: bytes | None) -> int | None:
    """Return what ``content-length`` says; raises ``StreamFault`` when it is no number (8.1.1)."""
    if value is None:
        return None
    if not value.isdigit() or len(value) > _LENGTH_DIGITS:
        raise malformed(number, "content-length is not a number (8.1.1)")
    return int(value)


def malformed(stream: int, cause: str) -> StreamFault:
    """Return the fault of a malformed request."""
    return StreamFault(stream, PROTOCOL_ERROR, cause)


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field as a literal without indexing and Huffman coding (RFC 7541, 6.2.2).

    It leaves the peer's table alone, so blocks can be made before and joined.
    """
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """Return a string's length as an integer with a 7-bit prefix (RFC 7541, 5.1)."""
    if size < _LENGTH_PREFIX:
        return bytes((size,))
    rest, parts = size - _LENGTH_PREFIX, [_LENGTH_PREFIX]
    while rest >= _MORE:
        parts.append(rest % _MORE + _MORE)
        rest //= _MORE
    parts.append(rest)
    return bytes(parts)


_STATUSES = {200: b"\x88", 204: b"\x89", 400: b"\x8c", 404: b"\x8d", 500: b"\x8e"}


def status(code: int) -> bytes:
    """Return the field ``:status``."""
    indexed = _STATUSES.get(code)
    # 8 is the place of :status in the static table.
    return indexed if indexed is not None else b"\x08\x03%d" % code


def lines(text: bytes) -> bytes:
    """Return complete HTTP/1.1 header lines as fields."""
    fields = []
    for line in text.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            fields.append(literal(name.strip().lower(), value.strip()))
    return b"".join(fields)
