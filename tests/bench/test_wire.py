"""Frames of the ceiling."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bench.ceiling.wire import HEADER, FrameBuffer


@given(
    frames=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=40)), max_size=20),
    cuts=st.lists(st.integers(0, 1000), max_size=10),
)
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """However the stream is cut into reads, the same frames come out in the same order."""
    stream = b"".join(HEADER.pack(number, len(data)) + data for number, data in frames)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    buffer = FrameBuffer()
    found = []
    for start, stop in itertools.pairwise(edges):
        found += buffer.feed(stream[start:stop])
    assert found == frames
