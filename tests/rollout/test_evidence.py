"""Evidence is counted once, whatever happens to those who count and those who collect."""

import random

import msgspec
import numpy as np
import pytest

from salver.core.errors import InvalidRequest, WireError
from salver.core.routing import CANARY, PRIMARY
from salver.rollout.evidence import MAX_BLOCKS, Block, Collection, Reading
from salver.rollout.tally import REQUESTS, Layout, Tally, pack
from tests.rollout.tables import CANARY_LAYOUT, LAYOUT, block


def reading(source: str, number: int, requests: int, arm: str = CANARY, epoch: int = 1) -> Reading:
    """Return the cumulative counts of a gateway that saw so many requests."""
    tally = Tally(LAYOUT)
    for place in range(requests):
        tally.answered(place % 10, 0.03)
    return Reading(source, number, epoch, arm, pack(tally.table()))


def total(collection: Collection, arm: str = CANARY) -> list[float]:
    """Return the requests of one arm, block by block."""
    return [float(getattr(o, arm).rows[:, REQUESTS].sum()) for o in collection.observed()]


def test_each_request_counts_once_in_any_order_of_readings() -> None:
    """Repeated, late and lost readings and a restart of the collector change no total."""
    sent = [reading(source, number, 10 * number) for source in "ab" for number in range(1, 6)]
    for seed in range(20):
        rng = random.Random(seed)
        order = [each for each in sent if each.number == 5 or rng.random() < 0.7] * 2
        rng.shuffle(order)
        collection = Collection()
        collection.begin(block())
        for place, each in enumerate(order):
            collection.take(each)
            if place == len(order) // 2:
                stored = msgspec.msgpack.encode((collection.blocks(), collection.readings()))
                collection = Collection()
                blocks, readings = msgspec.msgpack.decode(
                    stored, type=tuple[list[Block], list[Reading]]
                )
                for known in blocks:
                    collection.begin(known)
                for known_reading in readings:
                    assert collection.take(known_reading)
        assert total(collection) == [100.0]


def test_a_reading_of_no_known_block_is_left_alone() -> None:
    """A gateway may be ahead of control; what it counts stays cumulative and comes again."""
    collection = Collection()
    assert not collection.take(reading("a", 1, 5))
    collection.begin(block())
    assert collection.take(reading("a", 1, 5))
    assert not collection.take(reading("a", 1, 50))
    assert total(collection) == [5.0]


def test_arms_and_blocks_are_apart() -> None:
    """Counts never wander from one arm or block to another."""
    collection = Collection()
    collection.begin(block(1, 500))
    collection.begin(block(2, 2500))
    collection.begin(block(2, 2500))
    collection.take(reading("a", 1, 5, CANARY, 1))
    collection.take(reading("a", 1, 7, PRIMARY, 2))
    assert total(collection, CANARY) == [5.0, 0.0]
    assert total(collection, PRIMARY) == [0.0, 7.0]


def test_readings_that_do_not_fit_are_refused() -> None:
    """An unknown arm or another number of columns is an error between processes."""
    collection = Collection()
    collection.begin(block())
    with pytest.raises(WireError, match="does not fit"):
        collection.take(reading("a", 1, 5, "shadow"))
    narrow = Reading("a", 1, 1, CANARY, pack(Tally(Layout()).table()))
    with pytest.raises(WireError, match="does not fit"):
        collection.take(narrow)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Block(2, 0, CANARY_LAYOUT, LAYOUT), "basis points"),
        (Block(2, 10_001, CANARY_LAYOUT, LAYOUT), "basis points"),
        (Block(2, 500, Layout(), LAYOUT), "same columns"),
        (Block(1, 600, CANARY_LAYOUT, LAYOUT), "already known"),
    ],
)
def test_blocks_that_cannot_be_compared_are_refused(wrong: Block, reason: str) -> None:
    """The message names the cause."""
    collection = Collection()
    collection.begin(block())
    with pytest.raises(InvalidRequest, match=reason):
        collection.begin(wrong)


def test_the_number_of_blocks_is_bounded() -> None:
    """A rollout that pauses and resumes for ever does not grow for ever."""
    collection = Collection()
    for epoch in range(MAX_BLOCKS):
        collection.begin(block(epoch))
    with pytest.raises(InvalidRequest, match="at most"):
        collection.begin(block(MAX_BLOCKS))


def test_tables_add_up() -> None:
    """The tables of two gateways together are the sum of both."""
    collection = Collection()
    collection.begin(block())
    collection.take(reading("a", 1, 15))
    collection.take(reading("b", 1, 5))
    rows = collection.observed()[0].canary.rows[:, REQUESTS]
    assert np.array_equal(rows[:10], [3, 3, 3, 3, 3, 1, 1, 1, 1, 1])
