"""Requests for workers that run on demand: they wait, bounded, and nobody waits in vain."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import uvloop

from salver.core.errors import WorkerCrashed
from salver.core.settings import EngineSettings
from salver.engine.client.handler import EngineClient
from salver.observe.meter import Meter
from salver.scale.local.activation import Refuser
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
async def sleeping(workers: int = 1) -> AsyncIterator[tuple[Fleet, Callers, socket.socket]]:
    """Give a fleet without processes, its client, and the door of its first worker."""
    fleet = Fleet((Model(policy=BatchPolicy(max_queue=ROOM)),), workers, {})
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


def refuser_of(identity: str, door: socket.socket) -> Refuser:
    """Say at a door that its worker cannot be started."""
    refuser = Refuser(door, identity, (VARIANT,), WorkerCrashed("it ends when it starts"))
    refuser.start()
    return refuser


def test_who_cannot_be_started_leaves_it_to_the_others() -> None:
    """A request waits on while another worker may start, and has its answer from that one."""

    async def run() -> None:
        async with sleeping(2) as (fleet, callers, door):
            refuser = refuser_of("shared-0", door)
            caller = callers.ask(1.0, timeout_s=30.0)
            await until(lambda: bool(callers.client._waiting))
            (pending,) = callers.client._waiting
            await until(lambda: "shared-0" in pending.refused_by)
            assert not caller.outcome
            fleet.start("shared-1")
            await finish([caller])
            assert caller.answer == 4.0
            refuser.stop()

    uvloop.run(run())


def test_when_none_can_be_started_nobody_waits() -> None:
    """The refusal of the last one is the answer, long before the deadline."""

    async def run() -> None:
        async with sleeping(2) as (fleet, callers, door):
            with socket.socket(socket.AF_UNIX) as second:
                second.bind(f"{fleet.home}/run/worker-shared-1.sock")
                second.listen()
                second.settimeout(0)
                refusers = [refuser_of("shared-0", door), refuser_of("shared-1", second)]
                caller = callers.ask(1.0, timeout_s=600.0)
                await finish([caller])
                assert caller.outcome == "worker_crashed"
                for refuser in refusers:
                    refuser.stop()

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
