"""Header blocks: remembered, decoded quickly, or decoded in general, they mean the same."""

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.gateway.h2.frames import ConnectionFault, StreamFault
from salver.gateway.h2.headers import HeaderDecoder, literal, request_fields
from salver.gateway.h2.quick import decode_quickly

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
            quick = decode_quickly(block, theirs.header_table.dynamic_entries)
            assert quick in (None, expected)


@given(block=st.binary(max_size=60))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_block(block: bytes) -> None:
    """Bytes that are no block end the connection, and what is decoded quickly is right."""
    expected: tuple[tuple[bytes, bytes], ...] | None
    try:
        expected = tuple([(bytes(n), bytes(v)) for n, v in Decoder().decode(block, raw=True)])
    except Exception:
        expected = None
    quick = decode_quickly(block, ())
    assert quick is None or quick == expected
    try:
        assert HeaderDecoder(1 << 16).decode(block) == expected
    except ConnectionFault:
        assert expected is None


def test_what_grpc_libraries_send_is_quick() -> None:
    """Indices and plain literals are decoded without the general decoder."""
    encoder, decoder = Encoder(), Decoder()
    first = encoder.encode(
        [(b":method", b"POST"), (b":path", b"/a.B/C"), (b"te", b"trailers")], huffman=False
    )
    decoder.decode(first, raw=True)
    block = encoder.encode([(b":method", b"POST"), (b":path", b"/a.B/C"), (b"te", b"trailers")])
    block += literal(b"grpc-timeout", b"4999m") + literal(b"traceparent", b"00-" + b"1" * 52)
    assert decode_quickly(block, decoder.header_table.dynamic_entries) == (
        (b":method", b"POST"),
        (b":path", b"/a.B/C"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"4999m"),
        (b"traceparent", b"00-" + b"1" * 52),
    )


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
    with pytest.raises(ConnectionFault):
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
