"""Which worker gets a request: the one with the least to do, and none that does worse."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
import uvloop

from salver.core.exchange import Exchange
from salver.core.timing import Timing
from salver.engine.client.balance import Balance
from salver.engine.client.ejection import EjectionPolicy
from salver.observe.meter import Meter
from salver.observe.outcomes import Outcomes
from salver.wire.messages import BatchPolicy
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
)

POLICY = EjectionPolicy(stall_ns=50_000_000, base_ns=300_000_000)


class Watched(Callers):
    """Makes requests, and lets the balance know how they ended."""

    observe: Outcomes
    meter: Meter

    def settle(self, callers: list[Caller]) -> None:
        """Record what became of requests, as a gateway does."""
        for caller in callers:
            assert caller.context is not None
            timing = caller.responses[-1].timing if caller.responses else None
            code = "" if caller.outcome == "ok" else caller.outcome
            total_ns = CLOCK.monotonic_ns() - caller.context.arrival_ns
            self.observe([Exchange(caller.context, "affine", "http", code, total_ns, timing)])

    @property
    def ejected(self) -> frozenset[str]:
        """Return which workers are left alone."""
        route = self.client.route(VARIANT)
        assert route is not None
        return route.ejected


@contextlib.asynccontextmanager
async def watched(running: Fleet, policy: EjectionPolicy = POLICY) -> AsyncIterator[Watched]:
    """Connect a client whose workers are judged."""
    async with client_of(running) as callers:
        made = Watched(callers.client)
        made.meter = Meter()
        balance = Balance(made.client.route, policy, CLOCK, made.meter)
        balance.apply(running.plan)
        made.observe = Outcomes(balance.counted)
        yield made


@pytest.fixture
def two() -> Iterator[Fleet]:
    """Give two workers that run one request at a time."""
    with fleet(Model(policy=BatchPolicy(max_batch_size=1)), workers=2) as running:
        yield running


def by_worker(callers: list[Caller]) -> Counter[str]:
    """Count who got the requests."""
    return Counter(caller.context.worker for caller in callers if caller.context is not None)


def test_workers_with_as_little_to_do_take_turns(two: Fleet) -> None:
    """Who asks one by one is answered by each in turn, so that both are heard of."""

    async def run() -> None:
        async with watched(two) as guest:
            callers = []
            for number in range(20):
                callers.append(guest.ask(float(number)))
                await finish(callers)
            check_answers(callers)
            assert by_worker(callers) == {"shared-0": 10, "shared-1": 10}

    uvloop.run(run())


def test_a_worker_that_hangs_is_left_alone_and_tried_again(two: Fleet) -> None:
    """After five requests that it let wait for too long it gets no more; later it does again."""

    async def run() -> None:
        async with watched(two) as guest:
            stuck = two.processes["shared-0"]
            stuck.send_signal(signal.SIGSTOP)
            try:
                late: list[Caller] = []
                while by_worker(late)["shared-0"] < 5:
                    late.append(guest.ask(1.0, timeout_s=0.1))
                    await finish(late)
                guest.settle(late)
                assert set(outcomes(late)) == {"ok", "deadline_exceeded"}
                assert guest.ejected == {"shared-0"}
                spared = [guest.ask(float(number)) for number in range(20)]
                await finish(spared)
                assert by_worker(spared) == {"shared-1": 20}
                assert outcomes(spared) == {"ok": 20}
                guest.settle(spared)
            finally:
                stuck.send_signal(signal.SIGCONT)
            while guest.ejected:
                await asyncio.sleep(0.02)
                guest.observe([spared_exchange(spared[0])])
            again = [guest.ask(float(number)) for number in range(20)]
            await finish(again)
            assert set(by_worker(again)) == {"shared-0", "shared-1"}
            check_answers(again)
            counted = {sample.labels: sample.value for sample in guest.meter.counters()}
            assert counted == {(VARIANT, "shared-0", "failures"): 1}

    uvloop.run(run())


def spared_exchange(caller: Caller) -> Exchange:
    """Return the record of an answered request."""
    assert caller.context is not None
    return Exchange(caller.context, "affine", "http", "", 1, Timing())


def test_the_last_one_is_used_whatever_it_does(two: Fleet) -> None:
    """When only an ejected worker can answer, it gets the requests."""

    async def run() -> None:
        async with watched(two) as guest:
            route = guest.client.route(VARIANT)
            assert route is not None
            route.ejected = frozenset(("shared-0",))
            await finish([guest.ask(1.0)])
            two.kill("shared-1")
            while guest.client.ready_workers(VARIANT) == 2:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.01)
            callers = [guest.ask(float(number)) for number in range(5)]
            await finish(callers)
            assert by_worker(callers) == {"shared-0": 5}
            check_answers(callers)

    uvloop.run(run())


def test_a_plan_with_fewer_workers() -> None:
    """Turns go on when workers leave the plan."""

    async def run(running: Fleet) -> None:
        async with watched(running) as guest:
            for number in range(3):
                await finish([guest.ask(float(number))])
            running.names = running.names[:2]
            guest.client.apply(running.write(running.models, 2))
            rest = [guest.ask(float(number)) for number in range(4)]
            await finish(rest)
            check_answers(guest.all)
            assert by_worker(rest) == {"shared-0": 2, "shared-1": 2}

    with fleet(Model(), workers=4) as running:
        uvloop.run(run(running))
