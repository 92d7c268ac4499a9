"""Memory of large payloads that is used again."""

import gc

import pytest

from salver.gateway.http.body import Body
from salver.gateway.http.memory import PayloadMemory

SIZE = 3_000_000


def test_a_piece_is_used_again_when_its_last_view_is_gone() -> None:
    """As long as anything refers to a part of a piece, nobody else gets it."""
    memory = PayloadMemory(10_000_000)
    first = memory.body(SIZE)
    first[:4] = b"abcd"
    part = first[:4]
    del first
    other = memory.body(SIZE)
    other[:4] = b"efgh"
    assert bytes(part) == b"abcd"
    assert memory.kept_bytes == 0
    del part
    assert memory.kept_bytes >= SIZE
    again = memory.body(SIZE - 100)
    assert memory.kept_bytes == 0
    assert again.nbytes == SIZE - 100
    assert bytes(again[:4]) == b"abcd"


def test_what_is_kept_is_bounded() -> None:
    """More than the limit goes back to the system, and a limit of nothing keeps nothing."""
    memory = PayloadMemory(2 * SIZE + 200_000)
    pieces = [memory.body(SIZE) for _ in range(5)]
    pieces.clear()
    assert 2 * SIZE <= memory.kept_bytes <= 2 * SIZE + 200_000
    nothing = PayloadMemory(0)
    piece = nothing.body(SIZE)
    del piece
    assert nothing.kept_bytes == 0


def test_what_is_not_needed_is_let_go() -> None:
    """A piece outlives one sweep, in which somebody may come for it, and no second."""
    memory = PayloadMemory(10_000_000)
    for rounds in (1, 2):
        piece = memory.body(SIZE)
        del piece
        for _ in range(rounds):
            memory.sweep()
        assert (memory.kept_bytes > 0) == (rounds == 1)


@pytest.mark.parametrize("kept_bytes", [0, 10_000_000])
def test_bodies_one_after_the_other(kept_bytes: int) -> None:
    """What a piece held before shows in no body, whole or not."""
    memory = PayloadMemory(kept_bytes)
    for size, fill in ((SIZE, b"x"), (SIZE - 50, b"y"), (100, b"z"), (SIZE, b"w")):
        body = Body(SIZE, memory.body)
        for start in range(0, size, 100_000):
            body.add(fill * min(100_000, size - start))
        assert bytes(body.whole()) == fill * size
        del body
    gc.collect()
    assert (memory.kept_bytes > 0) == bool(kept_bytes)
