"""Scripts of frames on which `h2` has a verdict, too, and whether ours is the same."""

import struct
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.gateway.h2 import frames as f
from tests.gateway.h2.inmemory import (
    BLOCK,
    GREETING,
    Frame,
    Ours,
    comparable,
    disagreement,
    lenient,
    theirs,
)

EXAMPLES = 800
OTHER_CODES = {
    "HEADERS on a stream that is closed (5.1)": "STREAM_CLOSED says 5.1, `h2` calls its id too low",
    "RST_STREAM is not 4 bytes (6.4)": "FRAME_SIZE_ERROR says 6.4",
    "SETTINGS ACK with a payload (6.5)": "FRAME_SIZE_ERROR says 6.5",
    "CONTINUATION without HEADERS (6.10)": "PROTOCOL_ERROR says 6.10, also on a closed stream",
    "a client's streams are odd (5.1.1)": "of two faults in a frame we name the stream's first",
}
"""Words with which we end connections by another code than `h2`, and why."""

STREAMS = st.sampled_from([1, 1, 1, 3, 3, 5, 2, 0])
NUMBERS = st.builds(
    lambda number: struct.pack(">I", number),
    st.one_of(st.integers(0, 70_000), st.integers(0, 2**31 - 1)),
)
SETTINGS = st.builds(
    lambda name, value: struct.pack(">HI", name, value),
    st.integers(1, 6),
    st.one_of(st.integers(0, 70_000), st.integers(2**31 - 2, 2**31 + 2)),
)


def frames(
    kind: int, flags: list[int], streams: st.SearchStrategy[int], payloads: st.SearchStrategy[bytes]
) -> st.SearchStrategy[list[Frame]]:
    """Return frames of one kind, right and wrong."""
    return st.builds(
        lambda flag, stream, payload: [Frame(kind, flag, stream, payload)],
        st.sampled_from(flags),
        streams,
        payloads,
    )


MOSTLY_ZERO = st.sampled_from([0, 0, 0, 1])
ANY = st.one_of(
    frames(f.HEADERS, [0, f.END_HEADERS, f.END_HEADERS | f.END_STREAM], STREAMS, st.just(BLOCK)),
    frames(f.CONTINUATION, [0, f.END_HEADERS], STREAMS, st.sampled_from([b"", BLOCK])),
    frames(f.DATA, [0, 0, f.END_STREAM], STREAMS, st.binary(max_size=9)),
    frames(f.RST_STREAM, [0], STREAMS, st.one_of(NUMBERS, NUMBERS, st.binary(max_size=5))),
    frames(f.SETTINGS, [0, 0, f.ACK], MOSTLY_ZERO, st.one_of(st.just(b""), SETTINGS)),
    frames(f.PING, [0, f.ACK], MOSTLY_ZERO, st.one_of(st.just(bytes(8)), st.binary(max_size=9))),
    frames(f.WINDOW_UPDATE, [0], STREAMS, NUMBERS),
)
RIGHT = st.sampled_from(
    [
        [Frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, -1, BLOCK)],
        [
            Frame(f.HEADERS, f.END_HEADERS, -1, BLOCK),
            Frame(f.DATA, 0, -1, b"abc"),
            Frame(f.DATA, f.END_STREAM, -1, b""),
        ],
        [
            Frame(f.HEADERS, f.END_STREAM, -1, BLOCK[:20]),
            Frame(f.CONTINUATION, f.END_HEADERS, -1, BLOCK[20:]),
        ],
        [
            Frame(f.HEADERS, f.END_HEADERS, -1, BLOCK),
            Frame(f.RST_STREAM, 0, -1, struct.pack(">I", f.CANCEL)),
        ],
        [Frame(f.PING, 0, 0, bytes(8))],
        [Frame(f.SETTINGS, 0, 0, b"")],
        [Frame(f.WINDOW_UPDATE, 0, 0, struct.pack(">I", 5))],
    ]
)


def script_of(groups: list[list[Frame]], wrong: list[Frame], place: int) -> bytes:
    """Return groups of frames, each on a stream of its own, with others somewhere among them."""
    written: list[bytes] = []
    stream = 1
    for index, group in enumerate(groups):
        if index == place:
            written += [frame.bytes() for frame in wrong]
        written += [(frame._replace(stream=stream) if frame.stream < 0 else frame).bytes()
                    for frame in group]  # fmt: skip
        stream += 2
    return b"".join(written)


SCRIPTS = st.builds(
    script_of, st.lists(RIGHT, min_size=2, max_size=8), st.one_of(st.just([]), ANY),
    st.integers(0, 7),
)  # fmt: skip


def compared(script: bytes) -> str:
    """Return what both said of a script; fails where they differ."""
    assert disagreement(script) is None
    script = comparable(script)
    if not script or lenient(script):
        return "not compared"
    ours = Ours()
    ours.feed(GREETING + script)
    (code, _), mine = theirs(GREETING + script), ours.fault()
    if code is None or mine is None:
        return "both go on" if code == mine else "one resets"
    assert code == mine or ours.cause() in OTHER_CODES, (code, mine, ours.cause())
    return "both end"


def test_verdicts_and_codes_are_the_same() -> None:
    """Nearly all scripts are compared, many of them to their end, and codes are those of `h2`."""
    counts: Counter[str] = Counter()

    @given(script=SCRIPTS)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def look(script: bytes) -> None:
        counts[compared(script)] += 1

    look()
    assert counts["not compared"] < 0.1 * EXAMPLES, counts
    assert counts["both go on"] > 0.25 * EXAMPLES, counts
    assert counts["both end"] > 0.25 * EXAMPLES, counts
