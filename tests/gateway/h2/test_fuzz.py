"""Any bytes: the server answers, ends the connection, or waits; and it agrees with `h2`."""

import itertools
import struct

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from salver.gateway.h2 import frames as f
from tests.gateway.h2.inmemory import BLOCK, GREETING, Frame, Ours, disagreement
from tests.gateway.h2.observer import observe

PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.just(BLOCK),
    st.just(b""),
    st.builds(lambda n: struct.pack(">I", n), st.integers(0, 2**32 - 1)),
    st.builds(
        lambda name, value: struct.pack(">HI", name, value),
        st.integers(0, 8),
        st.one_of(st.integers(0, 70_000), st.integers(2**31 - 2, 2**31 + 2)),
    ),
    st.just(bytes(8)),
    st.just(bytes(5)),
)
FRAMES = st.builds(
    lambda *fields: Frame(*fields).bytes(),
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x25, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 1, 1, 3, 3, 5, 2, 7]),
    PAYLOADS,
)
REQUESTS = st.builds(
    lambda stream, flags: Frame(f.HEADERS, flags, stream, BLOCK).bytes(),
    st.sampled_from(range(1, 16, 2)),
    st.sampled_from([f.END_HEADERS, f.END_HEADERS | f.END_STREAM]),
)
UPDATES = st.builds(
    f.window_update, st.sampled_from([0, 0, 1, 3, 7]), st.sampled_from([1, 5000, 70_000])
)
CONVERSATIONS = st.lists(st.one_of(FRAMES, REQUESTS, UPDATES), max_size=16).map(b"".join)
SCRIPTS = st.lists(FRAMES, max_size=8).map(b"".join)


@given(data=st.binary(max_size=400), greets=st.booleans())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes(data: bytes, *, greets: bool) -> None:
    """Nothing raises, whatever comes, and what is said is made of whole frames."""
    ours = Ours()
    ours.feed((GREETING if greets else b"") + data)
    ours.fault()


@given(data=SCRIPTS, cuts=st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_frames_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    """Frames mean the same however they are cut, and what ends a connection ends it once."""
    whole, pieces = Ours(), Ours()
    script = GREETING + data
    whole.feed(script)
    edges = sorted({0, len(script), *[cut for cut in cuts if cut < len(script)]})
    for start, stop in itertools.pairwise(edges):
        pieces.feed(script[start:stop])
    assert whole.fault() == pieces.fault()
    assert whole.application.complete_streams == pieces.application.complete_streams


@given(data=SCRIPTS)
@settings(
    max_examples=800,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much],
)
@example(data=f.frame(f.HEADERS, 5, 1, BLOCK) + f.frame(f.DATA, 0, 1, b"x"))
def test_the_verdicts_of_another_implementation(data: bytes) -> None:
    """A script of frames that ends `h2`'s connection ends ours, and none that it accepts does.

    Few are compared, as most have something about which both may differ; see ``test_verdicts``.
    """
    assert disagreement(data) is None


@given(data=CONVERSATIONS)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_what_travels_adds_up(data: bytes) -> None:
    """Windows, streams and what is held are what an observer counts, whatever a client sends."""
    observe(data)
