"""Whatever waits and runs together, each request gets the answer it gets alone."""

import asyncio
from collections.abc import Coroutine, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.clock import ManualClock
from salver.core.tensor import AnyArray
from salver.wire.messages import BatchPolicy
from tests.engine.worker.sequences import SEQUENCES, Desk, Texts, ask, ask_many, host_of


class Asked(NamedTuple):
    """One request: rows of a text of so many tokens, how urgent, and whether the caller leaves."""

    rows: int
    length: int
    priority: int
    leaves: bool


def text(number: int, rows: int, length: int) -> AnyArray:
    """Return rows that no other request has."""
    return (1000 * number + np.arange(rows * length, dtype="<i8")).reshape(rows, length)


def play(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run one scene."""
    uvloop.run(coroutine)


async def rest() -> None:
    """Let the worker come to rest."""
    for _ in range(300):
        await asyncio.sleep(0)


def check_limits(runtime: Texts, policy: BatchPolicy, *, is_tight: bool) -> None:
    """Look whether batches of more than one request kept to the policy."""
    for rows, length, real in runtime.batches:
        if rows > 3:
            assert rows <= policy.max_batch_size
            assert not policy.max_batch_tokens or rows * length <= policy.max_batch_tokens
            if is_tight:
                assert real >= (1 - policy.max_padding) * rows * length - 1e-9


asked = st.builds(
    Asked,
    st.integers(1, 3),
    st.sampled_from([1, 2, 8, 9, 10, 30]),
    st.sampled_from([0, 1, 10, 50]),
    st.sampled_from([False, False, False, True]),
)
policies = st.builds(
    BatchPolicy,
    st.integers(1, 12),
    max_batch_tokens=st.sampled_from([0, 1, 20, 64]),
    priorities=st.booleans(),
    batching=st.sampled_from(["fixed", "adaptive"]),
    objective_ms=st.sampled_from([0.0, 5.0]),
    sequences=st.just(SEQUENCES),
    max_padding=st.sampled_from([0.0, 0.1, 0.9]),
)


@settings(deadline=None)
@given(
    turns=st.lists(st.lists(asked, min_size=1, max_size=12), min_size=1, max_size=3),
    policy=policies,
    lanes=st.booleans(),
    joins=st.booleans(),
    together=st.booleans(),
)
def test_every_request_gets_its_own_answer(
    turns: Sequence[Sequence[Asked]],
    policy: BatchPolicy,
    *,
    lanes: bool,
    joins: bool,
    together: bool,
) -> None:
    """Over all shapes, priorities, cancellations and policies, plain queue or lanes.

    Nobody's filling reaches an answer, and no batch of several requests is over a limit.
    """
    expected: dict[int, tuple[list[list[int]], list[int]]] = {}

    async def scene() -> None:
        clock = ManualClock()
        runtime, desk = Texts(clock, lambda rows, length: 50 * rows * length), Desk(joins=joins)
        host = host_of(policy, runtime, clock, lanes=lanes)
        number = 0
        for turn in turns:
            for key, neighbours in groupby(turn, lambda one: one):
                group = list(neighbours)
                texts = [text(number + n, key.rows, key.length) for n in range(len(group))]
                for n, ids in enumerate(texts):
                    if not key.leaves:
                        sums = ids.sum(axis=1).tolist()
                        expected[number + n] = ((2 * ids).tolist(), sums)
                if together and not key.leaves:
                    ask_many(host, desk, number, texts, priority=key.priority)
                else:
                    for n, ids in enumerate(texts):
                        job = ask(host, desk, number + n, ids, priority=key.priority)
                        job.cancelled = key.leaves
                number += len(group)
            await asyncio.sleep(0)
        await rest()
        assert host.idle
        host.close()
        got = {
            request_id: [
                one if isinstance(one, str) else tuple(array.tolist() for array in one)
                for one in answers
            ]
            for request_id, answers in desk.got.items()
        }
        assert got == {request_id: [answer] for request_id, answer in expected.items()}
        # Who leaves after a batch was put together leaves a gap.
        is_tight = not any(one.leaves for turn in turns for one in turn)
        check_limits(runtime, policy, is_tight=is_tight)

    play(scene())


@pytest.mark.parametrize("lanes", [True, False])
def test_an_odd_shape_cuts_nobody_elses_batch(*, lanes: bool) -> None:
    """Requests of one shape run as one batch, however many of others came between them."""

    async def scene() -> None:
        clock, runtime, desk = ManualClock(), Texts(), Desk(joins=True)
        host = host_of(
            BatchPolicy(64, sequences=SEQUENCES, max_padding=0.0), runtime, clock, lanes=lanes
        )
        for number in range(24):
            clock.advance(0.001)
            ask(host, desk, number, text(number, 1, 4 if number % 3 else 40))
        await rest()
        assert sorted(runtime.batches) == [(8, 40, 320), (16, 4, 64)]
        assert runtime.batches[0][1] == 40
        host.close()

    play(scene())


def test_the_urgent_go_first_where_that_is_wanted() -> None:
    """A lower number runs earlier, none counts as 10, equals keep their order; else age decides."""
    priorities = [0, 50, 3, 10, 1, 3]

    async def scene(policy: BatchPolicy, order: list[int]) -> None:
        clock, desk = ManualClock(), Desk(joins=True)
        host = host_of(policy, Texts(), clock)
        for number, priority in enumerate(priorities):
            # Lengths that differ keep them apart, so that each is a batch of its own.
            ask(host, desk, number, text(number, 1, 1 + number), priority=priority)
            clock.advance(0.001)
        await rest()
        assert desk.order == order
        host.close()

    for size in (1, 2):
        policy = BatchPolicy(size, sequences=SEQUENCES, max_padding=0.0)
        play(scene(policy, [0, 1, 2, 3, 4, 5]))
        play(scene(msgspec.structs.replace(policy, priorities=True), [4, 2, 5, 0, 3, 1]))


def test_a_full_batch_does_not_wait() -> None:
    """With a delay requests wait for company, until the oldest has waited or there are enough."""

    async def scene() -> None:
        clock, runtime, desk = ManualClock(), Texts(), Desk(joins=True)
        policy = BatchPolicy(4, max_queue_delay_ms=400.0, sequences=SEQUENCES)
        host = host_of(policy, runtime, clock)
        ask(host, desk, 0, text(0, 1, 5))
        await rest()
        assert not runtime.batches
        for number in range(1, 4):
            ask(host, desk, number, text(number, 1, 5))
        await rest()
        assert runtime.batches == [(4, 5, 20)]
        ask(host, desk, 4, text(4, 1, 5))
        for number in range(5, 9):
            ask(host, desk, number, text(number, 1, 5))
        await rest()
        # Four of the five are a batch; the one that is left waits on.
        assert [batch[0] for batch in runtime.batches] == [4, 4]
        host.close()

    play(scene())


def test_who_waits_for_company_is_answered_without_it() -> None:
    """A request runs by itself after the delay, or after half of its own time if that is less."""

    async def scene() -> None:
        clock, runtime, desk = ManualClock(), Texts(), Desk(joins=True)
        policy = BatchPolicy(4, max_queue_delay_ms=3_600_000.0, sequences=SEQUENCES)
        host = host_of(policy, runtime, clock)
        ask(host, desk, 0, text(0, 1, 5), wait_ms=20)
        async with asyncio.timeout(30):
            while not desk.got:  # noqa: ASYNC110 - the desk has no event
                await asyncio.sleep(0.001)
        assert runtime.batches == [(1, 5, 5)]
        host.close()

    play(scene())


def test_a_policy_that_changes_holds_for_what_waits() -> None:
    """Requests accepted under one policy are answered under the next."""

    async def scene() -> None:
        clock, runtime, desk = ManualClock(), Texts(), Desk(joins=True)
        host = host_of(BatchPolicy(8, sequences=SEQUENCES), runtime, clock)
        for number in range(6):
            ask(host, desk, number, text(number, 1, 5))
        policy = BatchPolicy(2, sequences=SEQUENCES, batching="adaptive", priorities=True)
        host.update(msgspec.structs.replace(host.load, policy=policy))
        await rest()
        assert sorted(desk.got) == list(range(6))
        assert all(rows <= 2 for rows, _, _ in runtime.batches)
        host.close()

    play(scene())
