"""Header blocks: HPACK (RFC 7541) in and out, and what makes a request malformed (RFC 9113, 8).

Clients send the same blocks, or blocks that begin alike, again and again. What a block means
depends on its bytes and on the dynamic table alone, so it holds for as long as the table stays.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from salver.gateway.h2.frames import PROTOCOL_ERROR, StreamFault
from salver.gateway.h2.quick import Pair, Parsed, changes_table, parse, resolve
from salver.gateway.h2.skim import (
    MAX_REFUSED_BYTES,
    ListTooLong,
    Skimmer,
    broken,
    endless,
    list_bytes,
)

Fields = dict[bytes, bytes]
T = TypeVar("T")

TABLE_BYTES: Final = 4096
_MAX_REMEMBERED: Final = 256
_MAX_REMEMBERED_BYTES: Final = 1024
# A few bytes may name a large entry of the table again and again.
_MAX_REMEMBERED_LIST_BYTES: Final = 4096
_INDICES: Final = re.compile(rb"[\x81-\xfe]*")
_LENGTH_PREFIX: Final = 127
_LENGTH_DIGITS: Final = 18
_MORE: Final = 128
_NEED_AUTHORITY: Final = frozenset((b"http", b"https"))
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
# Fields that speak of one HTTP/1.1 connection (8.2.2).
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
# Fields that change how a request is read or who sends it: one of each at most.
_SINGLE: Final = frozenset(
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
_MAX_SOUND: Final = 4096
_MAX_SOUND_BYTES: Final = 256
_sound: set[Pair] = set()
_NAME_BYTES: Final = frozenset(range(0x21, 0x7F)) - frozenset(range(0x41, 0x5B)) - {0x3A}


class _Beginning(NamedTuple):
    """What the indices at the beginning of a block stand for: size and checked fields."""

    list_bytes: int
    fields: Fields
    regular: bool


class HeaderDecoder:
    """Decodes the blocks of one connection."""

    def __init__(self, max_list_bytes: int) -> None:
        self._decoder = Decoder(MAX_REFUSED_BYTES)
        self._max_list_bytes = max_list_bytes
        self._decoder.max_allowed_table_size = TABLE_BYTES
        self._requests: dict[bytes, Fields] = {}
        self._beginnings: dict[bytes, _Beginning] = {}

    def request(self, stream: int, block: bytes | Skimmer) -> Fields:
        """Return the fields of a request; equal blocks share them, so nobody may change them.

        Raises ``ConnectionFault`` and ``ListTooLong`` as ``decode``, and ``StreamFault`` as
        ``request_fields``.
        """
        if isinstance(block, Skimmer):
            raise block.finished()
        fields = self._requests.get(block)
        if fields is None:
            fields = self._request(stream, block)
        return fields

    def skim(self) -> Skimmer:
        """Return a reader for a block that is over the limit."""
        self._forget()
        return Skimmer(self._decoder, self._max_list_bytes)

    def _request(self, stream: int, block: bytes) -> Fields:
        """Read a new block; what many begin with is decoded and checked once."""
        matched = _INDICES.match(block)
        end = matched.end() if matched else 0
        rest = parse(block[end:])
        if rest is None:
            return request_fields(stream, self._decode_slowly(block))
        indices = block[:end]
        beginning = self._beginnings.get(indices)
        first = () if beginning else self._resolved(parse(indices) or [])
        # Whatever is wrong with this request, the table has to be what the client takes it for.
        pairs = self._resolved(rest)
        changed = changes_table(rest)
        if changed:
            self._forget()
        if beginning is None:
            beginning = self._begin(stream, first)
            if not changed and beginning.list_bytes <= _MAX_REMEMBERED_LIST_BYTES:
                _remember(self._beginnings, indices, beginning)
        size_bytes = beginning.list_bytes + list_bytes(pairs)
        if size_bytes > self._max_list_bytes:
            self._check_size((*beginning.fields.items(), *pairs), size_bytes)
        fields = beginning.fields.copy()
        _add(stream, fields, pairs, regular=beginning.regular)
        _complete(stream, fields)
        if not changed and size_bytes <= _MAX_REMEMBERED_LIST_BYTES:
            _remember(self._requests, block, fields)
        return fields

    def _begin(self, stream: int, pairs: Sequence[Pair]) -> _Beginning:
        size_bytes = list_bytes(pairs)
        self._check_size(pairs, size_bytes)
        fields: Fields = {}
        return _Beginning(size_bytes, fields, _add(stream, fields, pairs, regular=False))

    def decode(self, block: bytes | Skimmer) -> tuple[Pair, ...]:
        """Return the fields of a block in order.

        Raises ``ConnectionFault``: after a block that cannot be decoded the table is unknown.
        Raises ``ListTooLong`` for one that is over the limit, which the table has taken in.
        """
        if isinstance(block, Skimmer):
            raise block.finished()
        parsed = parse(block)
        if parsed is None:
            return self._decode_slowly(block)
        pairs = self._resolved(parsed)
        if changes_table(parsed):
            self._forget()
        self._check_size(pairs, list_bytes(pairs))
        return pairs

    def _resolved(self, parsed: list[Parsed]) -> tuple[Pair, ...]:
        try:
            return tuple(resolve(parsed, self._decoder.header_table))
        except HPACKError as error:
            raise broken(error) from error

    def _check_size(self, pairs: Sequence[Pair], size_bytes: int) -> None:
        if size_bytes > MAX_REFUSED_BYTES:
            raise endless()
        if size_bytes > self._max_list_bytes:
            raise ListTooLong(pairs, self._max_list_bytes)

    def _decode_slowly(self, block: bytes) -> tuple[Pair, ...]:
        self._forget()
        try:
            pairs = [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise endless() from error
        except (HPACKError, ValueError, IndexError, OverflowError) as error:
            raise broken(error) from error
        self._check_size(pairs, list_bytes(pairs))
        return tuple(pairs)

    def _forget(self) -> None:
        self._requests.clear()
        self._beginnings.clear()


def _remember(known: dict[bytes, T], block: bytes, meaning: T) -> None:
    if len(block) <= _MAX_REMEMBERED_BYTES:
        if len(known) >= _MAX_REMEMBERED:
            known.clear()
        known[block] = meaning


def request_fields(stream: int, pairs: Iterable[Pair]) -> Fields:
    """Return the fields of a request; pseudo-fields keep their colon.

    Raises ``StreamFault`` for a malformed request (8.1.1).
    """
    fields: Fields = {}
    _add(stream, fields, pairs, regular=False)
    return _complete(stream, fields)


def _add(stream: int, fields: Fields, pairs: Iterable[Pair], *, regular: bool) -> bool:
    """Add checked fields, and return whether a regular one was among all until now."""
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
    return regular


def _complete(stream: int, fields: Fields) -> Fields:
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


_STATUSES: Final = {200: b"\x88", 204: b"\x89", 400: b"\x8c", 404: b"\x8d", 500: b"\x8e"}


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
