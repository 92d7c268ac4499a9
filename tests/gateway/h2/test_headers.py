"""Header blocks: remembered, decoded quickly, or decoded in general, they mean the same."""

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.gateway.h2.frames import ConnectionFault, StreamFault
from salver.gateway.h2.headers import HeaderDecoder, literal, request_fields
from salver.gateway.h2.huffman import decoded
from salver.gateway.h2.quick import changes_table, parse, resolve
from salver.gateway.h2.skim import ListTooLong, within

NAMES = st.sampled_from(
    [b":path", b"te", b"content-type", b"grpc-timeout", b"x-own", b"traceparent"]
)
VALUES = st.one_of(
    st.sampled_from([b"", b"trailers", b"application/grpc", b"/a", b"POST"]),
    st.binary(max_size=140),
)
BLOCKS = st.lists(
    st.tuples(NAMES, VALUES, st.sampled_from(["index", "never", "plain"])), max_size=8
)


@given(blocks=st.lists(st.tuples(BLOCKS, st.booleans(), st.booleans()), max_size=6))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_all_ways_agree(blocks: list[tuple[list[tuple[bytes, bytes, str]], bool, bool]]) -> None:
    """Whatever an encoder makes of fields, they come back, also when a block comes again."""
    encoder, ours, theirs = Encoder(), HeaderDecoder(1 << 20), Decoder(1 << 20)
    for fields, huffman, again in blocks:
        block = b""
        for name, value, how in fields:
            if how == "plain":
                block += literal(name, value)
            else:
                block += encoder.encode([(name, value, how == "never")], huffman=huffman)
        for _ in range(1 + again):
            expected = tuple([(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)])
            assert ours.decode(block) == expected


@pytest.mark.parametrize("size", [126, 127, 128, 254, 255, 5000])
def test_long_strings(size: int) -> None:
    """Tokens of any length are read, coded or plain; many are longer than one byte can say."""
    for huffman in (False, True):
        block = Encoder().encode([(b"authorization", b"a" * size)], huffman=huffman)
        parsed = parse(block)
        assert parsed is not None
        assert resolve(parsed, HeaderTable()) == [(b"authorization", b"a" * size)]


@given(block=st.binary(max_size=60))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_block(block: bytes) -> None:
    """Bytes that are no block end the connection, and what is decoded quickly is right."""
    expected: tuple[tuple[bytes, bytes], ...] | None
    try:
        expected = tuple([(bytes(n), bytes(v)) for n, v in Decoder().decode(block, raw=True)])
    except Exception:
        expected = None
    parsed = parse(block)
    if parsed is not None and expected is not None:
        assert tuple(resolve(parsed, HeaderTable())) == expected
    try:
        assert HeaderDecoder(1 << 16).decode(block) == expected
    except ConnectionFault:
        assert expected is None


@pytest.mark.parametrize("huffman", [False, True])
@pytest.mark.parametrize("inserted", [False, True])
def test_what_grpc_libraries_send_is_quick(huffman: bool, inserted: bool) -> None:
    """Indices and literals, coded or plain, put into the table or not, need no general decoder."""
    encoder, table = Encoder(), HeaderTable()
    fields = [(b":method", b"POST"), (b":path", b"/a.B/C"), (b"te", b"trailers")]
    parsed = parse(encoder.encode(fields, huffman=huffman))
    assert parsed is not None
    assert changes_table(parsed)
    assert resolve(parsed, table) == fields
    for number in range(200):
        changing = [(b"grpc-timeout", b"%dm" % number), (b"traceparent", b"00-%052d" % number)]
        block = encoder.encode(fields, huffman=huffman)
        if inserted:
            block += encoder.encode(changing, huffman=huffman)
        else:
            block += encoder.encode([(*one, True) for one in changing], huffman=huffman)
        parsed = parse(block)
        assert parsed is not None
        assert changes_table(parsed) or not inserted
        assert resolve(parsed, table) == fields + changing


@given(text=st.binary(max_size=80))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_coded_strings(text: bytes) -> None:
    """A string comes back from its code, and bytes that are no code are refused."""
    code = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)
    assert decoded(code) == text
    expected: bytes | None
    try:
        expected = decode_huffman(text)
    except HPACKError:
        expected = None
    try:
        found: bytes | None = decoded(text)
    except LookupError:
        found = None
    assert found == expected


@given(
    rest=st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=5),
    twice=st.booleans(),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_request_that_begins_like_another(
    rest: list[tuple[bytes, bytes, bool]], twice: bool
) -> None:
    """It has the fields, or the fault, that it has when it is read as a whole."""
    encoder, ours, whole = Encoder(), HeaderDecoder(1 << 16), HeaderDecoder(1 << 16)
    common = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b"host", b"h")]
    first = encoder.encode(common, huffman=False)
    assert ours.request(1, first) == request_fields(1, whole.decode(first))
    for _ in range(1 + twice):
        block = encoder.encode(common, huffman=False)
        for name, value, inserted in rest:
            block += encoder.encode([(name, value, not inserted)], huffman=False)
        pairs = whole.decode(block)
        try:
            expected: object = request_fields(3, pairs)
        except StreamFault as fault:
            expected = str(fault)
        try:
            found: object = ours.request(3, block)
        except StreamFault as fault:
            found = str(fault)
        assert found == expected


def test_a_malformed_request_changes_the_table_all_the_same() -> None:
    """What it put there has its place, so the requests after it mean what their client meant."""
    encoder, ours = Encoder(), HeaderDecoder(1 << 16)
    good = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b"host", b"h")]
    assert ours.request(1, encoder.encode(good, huffman=False)) == dict(good)
    twice = [(b":method", b"POST"), (b":method", b"POST"), (b"x-own", b"1"), (b"x-two", b"2")]
    with pytest.raises(StreamFault, match="repeated"):
        ours.request(3, encoder.encode(twice, huffman=False))
    later = [*good, (b"x-own", b"1"), (b"x-two", b"2")]
    assert ours.request(5, encoder.encode(later, huffman=False)) == dict(later)


def test_what_is_remembered_is_small() -> None:
    """Blocks of a few bytes that name a large entry many times leave no more than they weigh."""
    encoder, ours = Encoder(), HeaderDecoder(1 << 20)
    good = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b"host", b"h")]
    ours.request(1, encoder.encode([*good, (b"x-own", b"v" * 3000)], huffman=False))
    entries = encoder.encode([*good, *[(b"x-own", b"v" * 3000)] * 8], huffman=False)
    for number in range(50):
        fields = ours.request(3, entries + literal(b"x-two", b"%d" % number))
        assert len(fields[b"x-own"]) > 24_000
    assert not ours._requests
    assert not ours._beginnings


def test_a_changed_table_is_noticed() -> None:
    """A remembered block is decoded anew once its indices mean something else."""
    encoder, ours = Encoder(), HeaderDecoder(1 << 16)
    ours.decode(encoder.encode([(b"x", b"1")], huffman=False))
    block = b"\xbe"
    assert ours.decode(block) == ((b"x", b"1"),)
    ours.decode(encoder.encode([(b"y", b"2")], huffman=False))
    assert ours.decode(block) == ((b"y", b"2"),)


def test_the_table_of_one_entry() -> None:
    """An entry that takes the place of the only one is noticed too."""
    ours = HeaderDecoder(1 << 16)
    large = b"v" * 3000
    for number in range(5):
        value = large + b"%d" % number
        entry = b"\x40\x01x" + b"\x7f" + _varint(len(value) - 127) + value
        ours.decode(entry)
        assert ours.decode(b"\xbe") == ((b"x", value),)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 128:
        parts.append(value % 128 + 128)
        value //= 128
    parts.append(value)
    return bytes(parts)


def test_lists_over_the_limit_are_refused_either_way() -> None:
    """A quick block counts towards the limit like any other."""
    small = HeaderDecoder(200)
    with pytest.raises(ListTooLong):
        small.decode(literal(b"a", b"b" * 100) * 3)


def test_sound_fields_are_checked_once_and_broken_ones_always() -> None:
    """What was found wrong is found wrong again."""
    good = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"test")]
    for _ in range(3):
        assert request_fields(1, good)[b":path"] == b"/"
        with pytest.raises(StreamFault):
            request_fields(1, [*good, (b"bad name", b"x")])
        with pytest.raises(StreamFault):
            request_fields(1, [*good, (b"a", b"x\n")])
        with pytest.raises(StreamFault):
            request_fields(1, [*good, (b":path", b"/")])


def test_a_change_of_the_tables_size_takes_place_each_time() -> None:
    """Blocks that begin with it are not remembered (RFC 7541, 6.3)."""
    ours, full = HeaderDecoder(1 << 16), b"\x3f\xe1\x1f"
    for block in (full + b"\x82", b"\x20\x82", full + b"\x82", b"\x40\x01x\x01y"):
        ours.decode(block)
    assert ours.decode(b"\xbe") == ((b"x", b"y"),)


LONG = st.sampled_from([0, 1, 100, 3000, 4064, 4100, 20_000, 33_000, 70_000])
LONG_FIELDS = st.tuples(
    st.sampled_from([b"a", b"content-type", b"x-own"]), LONG, st.sampled_from([b"y", b"~", b"0"])
)


@given(
    fields=st.lists(st.tuples(LONG_FIELDS, st.booleans(), st.booleans()), min_size=1, max_size=8),
    cut=st.integers(1, 16_384),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_skimming_leaves_the_table_as_decoding_does(
    fields: list[tuple[tuple[bytes, int, bytes], bool, bool]], cut: int
) -> None:
    """However a long block is cut, the table is the same, and the first fields are known."""
    encoder, ours, theirs = Encoder(), HeaderDecoder(5000), Decoder(1 << 20)
    theirs.max_allowed_table_size = 4096
    block, expected = b"", []
    for (name, size, letter), huffman, never in fields:
        expected.append((name, letter * size))
        block += encoder.encode([(name, letter * size, never)], huffman=huffman)
    skimmer = ours.skim()
    for start in range(0, len(block), cut):
        skimmer.feed(block[start : start + cut])
    theirs.decode(block, raw=True)
    mine, other = ours._decoder.header_table, theirs.header_table
    assert list(mine.dynamic_entries) == list(other.dynamic_entries)
    assert mine._current_size == other._current_size
    kept = skimmer.finished().pairs
    assert kept == within(expected, 5000)


def test_what_is_over_the_limit_and_changes_nothing_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Coded strings of megabytes are stepped over; those for the table are read."""
    read: list[int] = []

    def counted(text: bytes) -> bytes:
        read.append(len(text))
        return decoded(text)

    monkeypatch.setattr("salver.gateway.h2.quick.decoded", counted)
    encoder, ours = Encoder(), HeaderDecoder(5000)
    long, kept = (b"x-long", b"a" * 6000, True), (b"x-kept", b"b" * 100, False)
    block = encoder.encode([long] * 100 + [kept], huffman=True)
    skimmer = ours.skim()
    skimmer.feed(block)
    assert sum(read) < 5000
    assert list(ours._decoder.header_table.dynamic_entries) == [(b"x-kept", b"b" * 100)]
    assert skimmer.finished().pairs == []


@given(block=st.binary(max_size=40), cut=st.integers(1, 40))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_skimming_any_block(block: bytes, cut: int) -> None:
    """Bytes that are no block end the connection when they are skimmed as when they are decoded."""
    ours, theirs = HeaderDecoder(1 << 20), HeaderDecoder(1 << 20)
    outcomes: list[object] = []
    try:
        skimmer = ours.skim()
        for start in range(0, len(block), cut):
            skimmer.feed(block[start : start + cut])
        outcomes.append(tuple(skimmer.finished().pairs))
    except ConnectionFault:
        outcomes.append("broken")
    try:
        outcomes.append(theirs.decode(block))
    except ConnectionFault:
        outcomes.append("broken")
    assert outcomes[0] == outcomes[1]
