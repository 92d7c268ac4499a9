"""Frames survive any cutting of the stream; nonsense is refused before memory is taken."""

import contextlib
import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.errors import WireError
from salver.wire import framing
from salver.wire.framing import LARGE_BYTES, PREFIX, FrameReceiver, encode
from salver.wire.messages import (
    BatchStarted,
    Cancel,
    Fail,
    HistogramSample,
    Infer,
    Message,
    Sample,
    TensorHeader,
)

LIMIT = 4 * 1024 * 1024


def feed(receiver: FrameReceiver, data: bytes, step: int) -> list[tuple[Message, bytes]]:
    """Give the receiver the bytes in pieces of at most ``step``."""
    messages: list[tuple[Message, bytes]] = []
    position = 0
    while position < len(data):
        room = receiver.buffer()
        count = min(len(room), step, len(data) - position)
        room[:count] = data[position : position + count]
        messages += [(message, bytes(payload)) for message, payload in receiver.received(count)]
        position += count
    return messages


def trusting(limit: int = LIMIT) -> FrameReceiver:
    """Return a receiver whose peer has greeted."""
    receiver = FrameReceiver(limit)
    receiver.trust()
    return receiver


@settings(deadline=None)
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 300), st.sampled_from([LARGE_BYTES - 1, LARGE_BYTES, 300_000])),
        max_size=8,
    ),
    step=st.sampled_from([1, 7, 100, 65_536, 10_000_000]),
    text=st.text(max_size=50),
)
def test_round_trip(sizes: list[int], step: int, text: str) -> None:
    """Whatever is sent arrives equal and in order, however the stream is cut."""
    if step == 1:
        sizes = [min(size, 200) for size in sizes]
    sent: list[tuple[Message, bytes]] = []
    for index, size in enumerate(sizes):
        payload = bytes([index + 1]) * size
        header = TensorHeader(text, "UINT8", (size,), size)
        sent.append((Infer(index, text, (header,), 1, text), payload))
        sent.append((Cancel(index), b""))
    data = b"".join(encode(message, len(payload)) + payload for message, payload in sent)
    assert feed(trusting(), data, step) == sent


@given(data=st.binary(min_size=1, max_size=400), step=st.sampled_from([1, 13, 400]))
def test_noise_is_refused_or_waited_for(data: bytes, step: int) -> None:
    """Random bytes raise WireError or leave the receiver waiting; nothing else happens."""
    with contextlib.suppress(WireError):
        feed(trusting(), data, step)


@given(
    position=st.integers(0, 70),
    value=st.integers(0, 255),
)
def test_one_changed_byte(position: int, value: int) -> None:
    """A frame with one byte changed is refused, waited for, or read as some valid message."""
    data = bytearray(encode(Fail(7, "code", "text of a message"), 0) + encode(Cancel(3), 0))
    data[position % len(data)] = value
    with contextlib.suppress(WireError):
        feed(trusting(), bytes(data), 10)


@pytest.mark.parametrize(
    ("header", "payload"), [(framing.MAX_HEADER_BYTES + 1, 0), (10, LIMIT + 1), (10, 2**64 - 1)]
)
def test_sizes_are_checked_before_memory_is_taken(header: int, payload: int) -> None:
    """A frame over the limit is refused at its prefix; no memory for it is asked for."""
    asked: list[int] = []

    def allocate(size: int) -> bytearray:
        asked.append(size)
        return bytearray(size)

    receiver = FrameReceiver(LIMIT, allocate)
    receiver.trust()
    with pytest.raises(WireError, match="over the limit"):
        feed(receiver, PREFIX.pack(header, payload) + b"0" * 20, 100)
    assert asked == []


def test_a_stranger_gets_one_small_frame() -> None:
    """Before trust, a payload or a long header is refused, and a second message is not read."""
    with pytest.raises(WireError):
        feed(FrameReceiver(LIMIT), PREFIX.pack(10, 1), 100)
    with pytest.raises(WireError):
        feed(FrameReceiver(LIMIT), PREFIX.pack(framing.MAX_GREETING_BYTES + 1, 0), 100)
    receiver = FrameReceiver(LIMIT)
    two = encode(Cancel(1), 0) + encode(Cancel(2), 0)
    assert feed(receiver, two, 1000) == [(Cancel(1), b"")]
    assert receiver.trust() == [(Cancel(2), b"")]


def test_a_large_payload_is_received_in_place() -> None:
    """A large payload is the very memory that was allocated for it, and not copied again."""
    made: list[bytearray] = []

    def allocate(size: int) -> bytearray:
        made.append(bytearray(size))
        return made[-1]

    receiver = FrameReceiver(LIMIT, allocate)
    receiver.trust()
    size = 1_000_000
    head = encode(Cancel(1), size)
    room = receiver.buffer()
    room[: len(head)] = head
    assert receiver.received(len(head)) == []
    room = receiver.buffer()
    assert len(room) == size
    room[:] = b"x" * size
    ((_, payload),) = receiver.received(size)
    assert isinstance(payload, memoryview)
    assert payload.obj is made[0]


@pytest.mark.parametrize(
    "header",
    [
        b"\x92\x05\xa1\x80",
        b"\x93\x05\x01" + b"\x91" * 100_000,
        b"\x92\x63\x01",
        b"\x92\x05\xc3",
        b"",
        b"\x90",
    ],
)
def test_bad_messages_are_wire_errors(header: bytes) -> None:
    """Text that is no text, endless nesting, unknown tags, wrong types: the link's error only."""
    with pytest.raises(WireError):
        feed(trusting(), PREFIX.pack(len(header), 0) + header, 1_000_000)


def test_what_no_peer_takes_is_not_encoded() -> None:
    """Numbers over 64 bits and headers over the limit fail where they are made."""
    with pytest.raises(WireError, match="64 bits"):
        encode(BatchStarted((2**70,)), 0)
    with pytest.raises(WireError, match="over the limit"):
        encode(Fail(1, "code", "x" * (framing.MAX_HEADER_BYTES + 1)), 0)


def test_the_collector_walks_no_samples() -> None:
    """Control holds tens of thousands of them, in which no cycle can be."""
    assert not gc.is_tracked(Sample("a", ("b",), 1.0))
    assert not gc.is_tracked(HistogramSample("a", ("b",), (1, 2), 1.0))
