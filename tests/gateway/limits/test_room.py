"""Room at a variant, with real workers: who waits, in which order, and that nobody is lost."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.core.cohort import Cohort
from salver.core.context import Principal, RequestContext
from salver.core.exchange import Exchange, JointExchange
from salver.core.handler import Responder
from salver.core.request import InferenceRequest
from salver.core.settings import EngineSettings, LimitSettings, Settings
from salver.core.timing import Timing
from salver.gateway.limits.room import Rooms
from salver.observe.meter import Meter
from salver.observe.outcomes import Outcome, Outcomes
from salver.wire.messages import BatchPolicy, Plan
from tests.engine.client.test_handler import check_answers, outcomes
from tests.engine.fleet import (
    CLOCK,
    VARIANT,
    Caller,
    Callers,
    Fleet,
    Model,
    client_of,
    finish,
    fleet,
    until,
)

ALICE, BOB = Principal("alice"), Principal("bob")


class Guest(Callers):
    """Makes requests of rooms in front of a client."""

    rooms: Rooms
    meter: Meter

    def ask_some(self, count: int, *, timeout_s: float = 30.0) -> list[Caller]:
        """Ask so many times."""
        return [self.ask(float(number), timeout_s=timeout_s) for number in range(count)]

    @property
    def waiting(self) -> int:
        """Return how many wait for room."""
        return self.rooms._rooms[VARIANT].queue.count

    def count(self, name: str, *labels: str) -> float:
        """Return a counter."""
        return sum(
            sample.value
            for sample in self.meter.counters()
            if sample.name == name and sample.labels[1 : 1 + len(labels)] == labels
        )


@contextlib.asynccontextmanager
async def rooms_of(running: Fleet, max_in_flight: int = 1, **limits: Any) -> AsyncIterator[Guest]:
    """Connect rooms to a fleet, with ``max_in_flight`` requests at a time."""
    engine = EngineSettings(max_in_flight=max_in_flight)
    meter = Meter()
    async with client_of(running, engine) as callers:
        whole = Settings(engine=engine, limits=LimitSettings(**limits))
        rooms = Rooms(callers.client, callers.client.route, whole, CLOCK, meter)
        rooms.apply(running.plan)
        guest = Guest(callers.client, rooms)
        guest.rooms, guest.meter = rooms, meter
        try:
            yield guest
        finally:
            rooms.stop()


@pytest.fixture(scope="module")
def slow() -> Iterator[Fleet]:
    """Give a worker that takes 20 ms for each request."""
    with fleet(Model(runtime="slow", policy=BatchPolicy(max_batch_size=1))) as running:
        yield running


@pytest.fixture(scope="module")
def quick() -> Iterator[Fleet]:
    """Give two workers that take no time."""
    with fleet(Model(), workers=2) as running:
        yield running


def test_a_flood_of_one_caller_does_not_starve_another(slow: Fleet) -> None:
    """Who asks for little is answered while most of the flood still waits; all are answered."""

    async def run() -> None:
        async with rooms_of(slow, max_in_flight=2) as guest:
            guest.principal = ALICE
            flood = guest.ask_some(60)
            guest.principal = BOB
            few = guest.ask_some(3)
            await finish(few)
            unanswered = sum(not caller.finals for caller in flood)
            assert unanswered > 30
            await finish(flood)
            check_answers(flood + few)
            assert set(outcomes(flood + few)) == {"ok"}

    uvloop.run(run())


def test_no_more_are_open_than_the_limit(slow: Fleet) -> None:
    """Single requests and cohorts together never exceed it, and cohorts are cut."""

    async def run() -> None:
        async with rooms_of(slow, max_in_flight=5) as guest:
            callers = guest.ask_together([float(n) for n in range(3)])
            callers += guest.ask_together([float(n) for n in range(4)])
            callers += [guest.ask(1.0)]
            most = 0
            while not all(caller.finals for caller in callers):
                most = max(most, guest.client.open_requests(VARIANT))
                await asyncio.sleep(0.002)
            assert most == 5
            check_answers(callers)
            assert outcomes(callers) == {"ok": 8}

    uvloop.run(run())


def test_a_learned_limit_bounds_the_wait_before_it_has_learned(slow: Fleet) -> None:
    """Of a first burst those are refused that would wait for much longer than is allowed."""

    async def run() -> None:
        async with rooms_of(slow, max_in_flight=64, adaptive=True, max_wait_ms=100.0) as guest:
            callers = guest.ask_some(200)
            await finish(callers)
            found = outcomes(callers)
            assert found.keys() == {"ok", "overloaded"}
            assert found["overloaded"] > found["ok"]
            assert guest.waiting == 0

    uvloop.run(run())


def ten_runs(total_ms: int, run_ms: int) -> Outcome:
    """Return what a worker says of ten requests: how long it kept each, and ran it."""
    found = Outcome(VARIANT, "shared-0", ("default", "anonymous"))
    found.timed, found.total_ns, found.run_ns = 10, 10_000_000 * total_ms, 10_000_000 * run_ms
    return found


def test_a_slow_model_has_few_open_before_it_has_been_overloaded(slow: Fleet) -> None:
    """What a model of 10 ms answers within the longest wait is all that may be open or wait."""

    async def run() -> None:
        async with rooms_of(slow, max_in_flight=64, adaptive=True, max_wait_ms=100.0) as guest:
            room = guest.rooms._rooms[VARIANT]
            await asyncio.sleep(0.15)
            guest.rooms.counted([ten_runs(total_ms=10, run_ms=10)])
            assert 2 <= room.limit <= 11
            assert room.queue.max_items <= 10
            await asyncio.sleep(0.15)
            guest.rooms.counted([ten_runs(total_ms=95, run_ms=10)])
            assert room.queue.max_items <= 2

    uvloop.run(run())


def test_bounds(slow: Fleet) -> None:
    """Over what may wait requests are refused at once, the flooding caller's first."""

    async def run() -> None:
        async with rooms_of(slow, max_waiting=10, max_waiting_per_caller=8) as guest:
            guest.principal = ALICE
            flood = guest.ask_some(20)
            assert outcomes(flood) == {"": 9, "overloaded": 11}
            assert all(c.error is None or c.error.retry_after_s for c in flood)
            guest.principal = BOB
            few = guest.ask_some(4)
            assert outcomes(few) == {"": 4}
            assert outcomes(flood) == {"": 7, "overloaded": 13}
            await finish(flood + few)
            check_answers(flood + few)
            assert guest.count("salver_requests_crowded_out_total") == 13

    uvloop.run(run())


def test_who_waits_may_leave(slow: Fleet) -> None:
    """Its place is free at once, it never reaches a worker, and nobody answers it."""

    async def run() -> None:
        async with rooms_of(slow, max_waiting=4) as guest:
            first = guest.ask(1.0)
            waiting = guest.ask_some(4)
            for caller in waiting:
                caller.leave()
            assert guest.waiting == 0
            others = guest.ask_some(4)
            await finish([first, *others])
            assert outcomes(waiting) == {"": 4}
            assert outcomes(others) == {"ok": 4}
            assert guest.count("salver_requests_dropped_total", "cancelled") == 4

    uvloop.run(run())


def test_deadlines_pass_while_waiting(slow: Fleet) -> None:
    """A request is told at its deadline, also while nothing ends, and never runs."""

    async def run() -> None:
        async with rooms_of(slow) as guest:
            first = guest.ask(1.0)
            slow.processes["shared-0"].send_signal(19)
            try:
                late = guest.ask_some(3, timeout_s=0.05)
                await finish(late)
                assert outcomes(late) == {"deadline_exceeded": 3}
                assert not first.finals
            finally:
                slow.processes["shared-0"].send_signal(18)
            await finish([first])
            assert guest.count("salver_requests_dropped_total", "deadline") == 3

    uvloop.run(run())


def test_who_is_late_when_its_turn_comes_is_not_sent(slow: Fleet) -> None:
    """The deadline is looked at when a request is taken, before it costs a worker anything."""

    async def run() -> None:
        async with rooms_of(slow) as guest:
            guest.rooms._sweep_later = lambda: None  # type: ignore[method-assign]
            first = guest.ask(1.0)
            late = guest.ask(2.0, timeout_s=0.0)
            await finish([first, late])
            assert outcomes([first, late]) == {"ok": 1, "deadline_exceeded": 1}
            assert late.context is not None
            assert late.context.worker == ""

    uvloop.run(run())


class Collected:
    """Handler that keeps cohorts."""

    def __init__(self) -> None:
        self.cohorts: list[Cohort] = []

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Take no single request."""
        raise AssertionError

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Keep them."""
        self.cohorts += cohorts


def test_cohorts_of_one_turn_share_the_room(slow: Fleet) -> None:
    """Together they are no more than the limit; those over it wait."""

    async def run() -> None:
        async with rooms_of(slow, max_in_flight=5) as guest:
            collected = Collected()
            guest.handler = collected
            for _ in range(3):
                guest.ask_together([1.0, 2.0, 3.0])
            guest.rooms.many(collected.cohorts)
            assert guest.client.open_requests(VARIANT) == 5
            assert guest.waiting == 4
            await finish(guest.all)
            check_answers(guest.all)
            assert outcomes(guest.all) == {"ok": 9}

    uvloop.run(run())


def test_a_variant_that_leaves_the_plan(slow: Fleet) -> None:
    """Who waits for it is told so, by the same code as without waiting."""

    async def run() -> None:
        async with rooms_of(slow) as guest:
            callers = guest.ask_some(5)
            empty = Plan(2, 0, (), slow.plan.workers)
            guest.client.apply(empty)
            guest.rooms.apply(empty)
            await finish(callers)
            assert outcomes(callers) == {"ok": 1, "not_ready": 4}

    uvloop.run(run())


def test_stopping(slow: Fleet) -> None:
    """Who waits when the gateway stops is told that it stops."""

    async def run() -> None:
        async with rooms_of(slow) as guest:
            callers = guest.ask_some(5)
            guest.rooms.stop()
            await finish(callers)
            assert outcomes(callers) == {"ok": 1, "draining": 4}

    uvloop.run(run())


def test_the_workers_queues_bound_what_is_open(slow: Fleet) -> None:
    """No more is sent than the workers' queues take, so that who is refused is decided here."""

    async def run() -> None:
        async with rooms_of(slow, max_in_flight=4000) as guest:
            model = Model(runtime="slow", policy=BatchPolicy(max_batch_size=1, max_queue=3))
            guest.rooms.apply(Fleet.write(slow, (model,), 2))
            room = guest.rooms._rooms[VARIANT]
            assert room.limit == 3
            slow.write(slow.models, 3)

    uvloop.run(run())


def test_the_limit_is_learned(slow: Fleet) -> None:
    """With adaptive limits a flood at a slow model is cut down to a few open requests."""

    async def run() -> None:
        async with rooms_of(slow, max_in_flight=1000, adaptive=True) as guest:
            room = guest.rooms._rooms[VARIANT]
            assert room.limiter is not None
            before = room.limit
            callers: list[Caller] = []

            def learned() -> bool:
                open_count = guest.client.open_requests(VARIANT)
                callers.extend(guest.ask(1.0) for _ in range(50 - open_count - guest.waiting))
                kept_ns = 20_000_000 * max(1, open_count)
                found = Outcome(VARIANT, "shared-0", ("default", "anonymous"))
                found.timed, found.total_ns, found.run_ns = 5, 5 * kept_ns, 100_000_000
                guest.rooms.counted([found])
                return room.limit <= before // 2

            await until(learned)
            assert room.queue.max_items < 1024
            await finish(callers)
            check_answers(callers)

    uvloop.run(run())


def test_room_costs_no_cohort_its_wholeness(quick: Fleet) -> None:
    """While there is room cohorts reach the worker as they are."""

    async def run() -> None:
        async with rooms_of(quick, max_in_flight=1000) as guest:
            callers = guest.ask_together([float(n) for n in range(20)])
            cohort = callers[0].cohort
            assert cohort is not None
            assert cohort.when_apart is not None
            await finish(callers)
            check_answers(callers)
            assert not cohort.is_apart

    uvloop.run(run())


actions = st.lists(
    st.tuples(
        st.sampled_from(["ask", "together", "hurry", "leave", "rest"]),
        st.sampled_from(["alice", "bob", "carol"]),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=25,
)


@given(script=actions, limit=st.integers(1, 6))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_happens_everybody_has_one_answer(
    quick: Fleet, script: list[tuple[str, str, int]], limit: int
) -> None:
    """Each request has one answer, its own; who left has none; and nothing is left over."""

    async def run() -> None:
        async with rooms_of(
            quick, max_in_flight=limit, max_waiting=12, max_waiting_per_caller=6
        ) as guest:
            left: list[Caller] = []
            hasty: list[Caller] = []
            value = 0.0
            for action, name, count in script:
                guest.principal = Principal(name)
                value += count
                if action == "ask":
                    for number in range(count):
                        guest.ask(value + number / 100)
                elif action == "hurry":
                    hasty.append(guest.ask(value, timeout_s=0.0))
                elif action == "together":
                    guest.ask_together([value + number / 100 for number in range(count)])
                elif action == "leave":
                    for caller in guest.all[-count:]:
                        if not caller.finals and caller not in left:
                            left.append(caller)
                            caller.leave()
                else:
                    await asyncio.sleep(0.001)
            stayed = [caller for caller in guest.all if caller not in left]
            await finish(stayed)
            check_answers(guest.all)
            assert all(caller.finals == 1 for caller in stayed)
            assert not any(caller.finals for caller in left)
            patient = [caller for caller in stayed if caller not in hasty]
            assert set(outcomes(patient)) <= {"ok", "overloaded"}
            assert set(outcomes(stayed)) <= {"ok", "overloaded", "deadline_exceeded"}
            await until(lambda: guest.client.open_requests(VARIANT) == 0)
            assert guest.waiting == 0

    uvloop.run(run())


def test_outcomes_are_summed() -> None:
    """Exchanges are summed by variant, worker and caller; what says nothing is left out."""
    seen: list[Outcome] = []
    collect = Outcomes(seen.extend)

    def context(worker: str, principal: Principal, variant: str = VARIANT) -> RequestContext:
        made = RequestContext("", principal, 0, 0)
        made.variant, made.worker = variant, worker
        return made

    timing = Timing(queue_ns=5, run_ns=10)
    one = context("shared-0", ALICE)
    collect(
        [
            JointExchange(one, "affine", "http", 20, ["a", "b"], [timing, timing]),
            Exchange(one, "affine", "http", "", 20, timing),
            Exchange(one, "affine", "http", "worker_crashed", 20, None),
            Exchange(context("shared-1", ALICE), "affine", "http", "deadline_exceeded", 20, None),
            Exchange(context("shared-0", BOB), "affine", "http", "cancelled", 20, None),
            Exchange(context("", BOB, ""), "affine", "http", "quota_exceeded", 20, None),
        ]
    )
    found = {(item.worker, item.caller[1]): item for item in seen}
    first = found[("shared-0", "alice")]
    assert (first.answered, first.timed, first.failed) == (3, 3, 1)
    assert (first.total_ns, first.run_ns) == (45, 30)
    assert found[("shared-1", "alice")].longest_late_ns == 20
    assert found[("shared-0", "bob")].answered == found[("shared-0", "bob")].failed == 0
    assert Counter(item.variant for item in seen) == {VARIANT: 3}
