"""Bodies that arrive in pieces."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from salver.gateway.http.body import Body
from salver.gateway.http.large import LARGE_BODY_BYTES


@given(
    pieces=st.lists(st.binary(max_size=50), max_size=20),
    large=st.integers(0, 2),
    expected=st.sampled_from(["nothing", "all", "less", "more"]),
)
def test_pieces_are_the_whole(pieces: list[bytes], large: int, expected: str) -> None:
    """However a body is cut, and whatever was announced, it is what came."""
    pieces += [b"z" * LARGE_BODY_BYTES] * large
    whole = b"".join(pieces)
    sizes = {"nothing": None, "all": len(whole), "less": len(whole) // 2, "more": len(whole) + 9}
    body = Body(sizes[expected])
    for piece in pieces:
        body.add(piece)
    assert bytes(body.whole()) == whole
    assert body.size_bytes == len(whole)


def test_tiny_pieces_take_no_more_than_their_bytes() -> None:
    """A body in pieces of two bytes does not cost an object for each."""
    tracemalloc.start()
    try:
        body = Body()
        for _ in range(200_000):
            body.add(b"ab")
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert body.size_bytes == 400_000
    assert current < 1_000_000
