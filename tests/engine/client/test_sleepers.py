"""Requests for workers that run on demand: they wait, bounded, and nobody waits in vain."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import uvloop

from salver.core.settings import EngineSettings
from salver.engine.client.handler import EngineClient
from salver.observe.meter import Meter
from salver.wire.messages import PROTOCOL_VERSION, BatchPolicy, Hello, Plan
from salver.wire.transport import LinkOptions
from tests.engine.fleet import CLOCK, VARIANT, Callers, Fleet, Model, finish, until

ROOM = 3


def on_demand(plan: Plan) -> Plan:
    """Return a plan whose shared worker runs on demand."""
    workers = [
        msgspec.structs.replace(worker, on_demand=worker.kind == "shared")
        for worker in plan.workers
    ]
    return msgspec.structs.replace(plan, workers=tuple(workers))


@contextlib.asynccontextmanager
async def sleeping() -> AsyncIterator[tuple[Fleet, Callers, socket.socket]]:
    """Give a fleet without processes, its client, and the door of its one worker."""
    fleet = Fleet((Model(policy=BatchPolicy(max_queue=ROOM)),), 1, {})
    hello = Hello(PROTOCOL_VERSION, "gateway", "gateway-0", "test")
    client = EngineClient(hello, EngineSettings(), CLOCK, Meter(), LinkOptions())
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{fleet.home}/run/worker-shared-0.sock")
        door.listen()
        door.settimeout(0)
        await client.start()
        client.apply(on_demand(fleet.plan))
        try:
            yield fleet, Callers(client), door
        finally:
            await client.stop()
            fleet.close()


def connections(door: socket.socket) -> int:
    """Take all that wait at a door and return how many those are."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            door.accept()[0].close()
            count += 1
    return count


def test_nobody_connects_before_somebody_asks() -> None:
    """The version counts as ready; the first request connects, the others wait with it."""

    async def run() -> None:
        async with sleeping() as (_, callers, door):
            assert callers.client.is_ready(VARIANT)
            await asyncio.sleep(0.1)
            assert connections(door) == 0
            waiting = [callers.ask(1.0, timeout_s=5.0) for _ in range(2)]
            await asyncio.sleep(0.1)
            assert connections(door) == 1
            assert not any(caller.outcome for caller in waiting)

    uvloop.run(run())


def test_what_waits_is_bounded_and_dropped() -> None:
    """One more than fits is refused with Retry-After; who leaves or is late makes room."""

    async def run() -> None:
        async with sleeping() as (_, callers, _door):
            waiting = [callers.ask(1.0, timeout_s=60.0) for _ in range(ROOM)]
            refused = callers.ask(1.0)
            assert refused.outcome == "overloaded"
            assert refused.error is not None
            assert refused.error.retry_after_s
            waiting[0].leave()
            late = callers.ask(1.0, timeout_s=0.05)
            await finish([late])
            assert late.outcome == "deadline_exceeded"
            assert not callers.ask(1.0).outcome
            assert callers.ask(1.0).outcome == "overloaded"
            assert callers.client.in_flight == ROOM

    uvloop.run(run())


def test_a_worker_that_starts_answers_who_waited() -> None:
    """The process behind the door gets every request that waited, cohorts included."""

    async def run() -> None:
        async with sleeping() as (fleet, callers, door):
            waiting = [callers.ask(1.0), *callers.ask_together([2.0, 3.0])]
            door.close()
            fleet.start("shared-0")
            await finish(waiting)
            assert [caller.answer for caller in waiting] == [4.0, 7.0, 10.0]
            fleet.kill("shared-0")
            fleet.processes["shared-0"].wait()
            await until(lambda: not callers.client._links["shared-0"].connected)
            after = callers.ask(4.0)
            await asyncio.sleep(0.1)
            assert not after.outcome
            fleet.start("shared-0")
            await finish([after])
            assert after.answer == 13.0

    uvloop.run(run())
