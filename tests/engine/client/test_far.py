"""Workers over TCP that fall silent: nobody can read their notes, so they are asked."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import uvloop

from salver.core.settings import EngineSettings
from salver.engine.client.handler import EngineClient
from salver.engine.client.signs import Signs
from salver.observe.meter import Meter
from salver.wire.address import TcpAddress, parse_address
from salver.wire.connection import Connection
from salver.wire.framing import LARGE_BYTES, encode
from salver.wire.messages import BatchPolicy, Chunk, Plan
from salver.wire.pings import FIRST_PING_VERSION, Ping
from salver.wire.transport import LinkOptions
from tests.engine.client.test_handler import check_answers, outcomes
from tests.engine.fleet import CLOCK, QUARANTINE, VARIANT, Callers, Fleet, Model, finish, until
from tests.wire.links import hello, pair

QUICK = EngineSettings(silent_s=1.0, unresponsive_s=2.5)
NEVER_CUT = EngineSettings(silent_s=1.0, unresponsive_s=600.0)
TOKEN = "secret"
ALONE = BatchPolicy(max_batch_size=1)
SECOND_NS = 1_000_000_000


@pytest.fixture
def far() -> Iterator[Fleet]:
    """Give a home for workers that are not started yet."""
    made = Fleet((Model(runtime="very-slow", policy=ALONE),), 2, {})
    try:
        yield made
    finally:
        made.close()


async def free_port() -> int:
    """Return a port that nobody listens at."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


@contextlib.asynccontextmanager
async def calling(
    running: Fleet, settings: EngineSettings, *addresses: str
) -> AsyncIterator[Callers]:
    """Start workers that listen over TCP, and connect to them or to these addresses."""
    token = running.home / "token"
    token.write_text(TOKEN)
    places = {}
    for name in running.names:
        places[name] = f"tcp://127.0.0.1:{await free_port()}"
        running.start(name, ["--address", places[name], "--token-file", str(token)])
    running.start(QUARANTINE, ["--token-file", str(token)])
    places |= dict(zip(running.names, addresses, strict=False))
    running.plan = at(running.plan, places)
    greeting = hello("gateway", TOKEN)
    client = EngineClient(greeting, settings, CLOCK, Meter(), LinkOptions())
    await client.start()
    client.apply(running.plan)
    await until(lambda: client.ready_workers(VARIANT) == len(running.names))
    await until(lambda: VARIANT in client._links[QUARANTINE].ready)
    try:
        yield Callers(client)
    finally:
        await client.stop()


def at(plan: Plan, places: dict[str, str]) -> Plan:
    """Return a plan with other addresses."""
    workers = tuple(
        msgspec.structs.replace(worker, address=places.get(worker.id, worker.address))
        for worker in plan.workers
    )
    return msgspec.structs.replace(plan, workers=workers)


def test_what_waits_in_a_stopped_worker_moves_and_it_may_come_back(far: Fleet) -> None:
    """Asked over its link, it says nothing; new requests go to the other one until it does."""

    async def run() -> None:
        async with calling(far, NEVER_CUT) as callers:
            links = callers.client._links
            far.processes["shared-0"].send_signal(signal.SIGSTOP)
            held = [callers.ask(float(value)) for value in range(4)]
            assert links["shared-0"].open_count > 0
            await finish(held)
            assert outcomes(held) == {"ok": 4}
            check_answers(held)
            assert links["shared-0"].signs.silent
            assert not links["shared-1"].signs.silent
            late = [callers.ask(float(value)) for value in range(2)]
            assert links["shared-0"].open_count == 0
            await finish(late)
            far.processes["shared-0"].send_signal(signal.SIGCONT)
            await until(lambda: not links["shared-0"].signs.silent)
            again = [callers.ask(float(value)) for value in range(4)]
            assert links["shared-0"].open_count > 0
            await finish(again)
            assert outcomes(callers.all) == {"ok": 10}

    uvloop.run(run())


def test_one_that_runs_long_is_not_silent() -> None:
    """Its loop answers beside a run that takes longer than anybody may be silent."""
    far = Fleet((Model(runtime="ballast", content=b"8 0 8.0", policy=ALONE),), 2, {})

    async def run() -> None:
        async with calling(far, EngineSettings(silent_s=1.5, unresponsive_s=3.0)) as callers:
            links = callers.client._links
            before = [link._connection for link in links.values()]
            held = [callers.ask(float(value)) for value in range(2)]
            await finish(held)
            assert outcomes(held) == {"ok": 2}
            assert [link._connection for link in links.values()] == before
            assert not any(link.signs.silent for link in links.values())

    try:
        uvloop.run(run())
    finally:
        far.close()


def test_the_link_to_one_that_stays_silent_is_cut(far: Fleet) -> None:
    """What ran there is tried again in quarantine, or fails if it may not run twice.

    When the worker goes on it is connected again, and answers.
    """

    async def run() -> None:
        async with calling(far, QUICK) as callers:
            link = callers.client._links["shared-0"]
            first = [callers.ask(1.0), callers.ask(2.0, idempotent=False)]
            sent = [one for one in first if one.context and one.context.worker == "shared-0"]
            if len(sent) < len(first):
                first += [callers.ask(3.0, idempotent=False), callers.ask(4.0)]
            await until(lambda: any(one.started for one in link.pending.values()))
            ran = next(one for one in link.pending.values() if one.started)
            far.processes["shared-0"].send_signal(signal.SIGSTOP)
            await until(lambda: link._connection is None)
            await finish(first)
            if ran.context.idempotent:
                assert ran.quarantined
            for caller in first:
                assert caller.context is not None
                marked = not caller.context.idempotent
                there = caller.context.worker == "shared-0"
                assert caller.outcome == ("worker_crashed" if marked and there else "ok")
            assert not callers.client._links["shared-1"].signs.silent
            far.processes["shared-0"].send_signal(signal.SIGCONT)
            await until(lambda: callers.client.ready_workers(VARIANT) == 2)
            again = [callers.ask(float(value)) for value in range(4)]
            assert link.open_count > 0
            await finish(again)
            assert outcomes(again) == {"ok": 4}

    uvloop.run(run())


def test_a_link_that_is_open_on_one_side_only_is_found(far: Fleet) -> None:
    """Bytes that go nowhere, as behind a router that forgot the link, look like a silent worker."""

    async def run() -> None:
        port = await free_port()
        async with calling_through(far, port) as (callers, gate):
            link = callers.client._links["shared-0"]
            await finish([callers.ask(1.0), callers.ask(2.0)])
            gate.clear()
            held = [callers.ask(float(value)) for value in range(4)]
            assert link.open_count > 0
            await finish(held)
            assert outcomes(held) == {"ok": 4}
            await until(lambda: link._connection is None)
            gate.set()
            await until(lambda: link.connected)

    uvloop.run(run())


@contextlib.asynccontextmanager
async def calling_through(
    running: Fleet, port: int
) -> AsyncIterator[tuple[Callers, asyncio.Event]]:
    """Reach the first worker through something that swallows all bytes while the event is clear."""
    is_open = asyncio.Event()
    is_open.set()
    target: list[TcpAddress] = []
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_open.is_set():
                    writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", target[0].port)
        except (OSError, IndexError):
            writer.close()
            return
        writers.extend((writer, back))
        pumps = pump(reader, back), pump(there, writer)
        tasks.extend([asyncio.create_task(one) for one in pumps])

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    start = running.start

    def note(name: str, flags: list[str]) -> None:
        if name == running.names[0]:
            place = parse_address(flags[1])
            assert isinstance(place, TcpAddress)
            target.append(place)
        start(name, flags)

    running.start = note  # type: ignore[method-assign, assignment]
    try:
        async with calling(running, QUICK, f"tcp://127.0.0.1:{port}") as callers:
            yield callers, is_open
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_who_does_not_know_the_question_is_not_asked() -> None:
    """A worker of an older version gets no message that it would not understand."""

    async def run() -> None:
        old = hello("worker", version=FIRST_PING_VERSION - 1)
        address = f"tcp://127.0.0.1:{await free_port()}"
        worker = msgspec.structs.replace(old, token=TOKEN)
        client = hello("gateway", TOKEN)
        async with pair(address, server=worker, client=client) as (there, _, connection):
            signs = asked(connection)
            for second in range(1, 60):
                assert not signs.look(second * SECOND_NS, SECOND_NS, owes=True)
            signs.cut_if_gone(60 * SECOND_NS, QUICK)
            connection.send(Ping(7))
            await there.until_messages(1)
            assert [message for message, _ in there.messages] == [Ping(7)]

    uvloop.run(run())


def asked(connection: Connection) -> Signs:
    """Return the signs of a worker on another machine."""
    signs = Signs(None, "far")
    signs.connection = connection
    return signs


def test_one_question_at_a_time_and_none_without_need() -> None:
    """Who owes nothing is not asked; a question that is open is not repeated."""

    async def run() -> None:
        address = f"tcp://127.0.0.1:{await free_port()}"
        server, client = hello("worker", TOKEN), hello("gateway", TOKEN)
        async with pair(address, server=server, client=client) as (there, _, connection):
            signs = asked(connection)
            half_ns = SECOND_NS // 2
            assert not signs.look(half_ns, SECOND_NS, owes=False)
            for step in range(2, 5):
                assert not signs.look(step * half_ns, SECOND_NS, owes=True)
            assert signs.look(5 * half_ns, SECOND_NS, owes=True)
            assert not signs.look(6 * half_ns, SECOND_NS, owes=True)
            assert signs.silent
            signs.replied = True
            assert not signs.look(7 * half_ns, SECOND_NS, owes=True)
            assert not signs.silent
            await there.until_messages(2)
            assert [message for message, _ in there.messages] == [Ping(0), Ping(0)]

    uvloop.run(run())


def test_who_stood_still_itself_gives_others_another_chance() -> None:
    """After a pause of the gateway's own, the reply may have come and not been read."""

    async def run() -> None:
        address = f"tcp://127.0.0.1:{await free_port()}"
        server, client = hello("worker", TOKEN), hello("gateway", TOKEN)
        async with pair(address, server=server, client=client) as (_, here, connection):
            signs = asked(connection)
            signs.look(3 * SECOND_NS, SECOND_NS, owes=True)
            assert not signs.look(63 * SECOND_NS, SECOND_NS, owes=True)
            signs.cut_if_gone(63 * SECOND_NS, QUICK)
            assert signs.look(65 * SECOND_NS, SECOND_NS, owes=True)
            signs.cut_if_gone(65 * SECOND_NS, QUICK)
            assert not here.lost
            signs.cut_if_gone(66 * SECOND_NS, QUICK)
            await here.until_lost()
            assert "no sign of life for 2.5 s" in str(here.lost[0])

    uvloop.run(run())


def test_a_large_answer_that_is_still_coming_is_no_silence() -> None:
    """Over a slow line the reply waits behind it; when nothing comes any more, that is silence."""

    async def run() -> None:
        address = f"tcp://127.0.0.1:{await free_port()}"
        server, client = hello("worker", TOKEN), hello("gateway", TOKEN)
        async with pair(address, server=server, client=client) as (there, here, connection):
            far_end = await there.until_accepted()
            assert far_end._transport is not None
            signs, part = asked(connection), bytes(LARGE_BYTES)
            far_end._transport.write(encode(Chunk(1, 0, True, ()), 60 * len(part)))
            signs.look(SECOND_NS, SECOND_NS, owes=True)
            for second in range(2, 60):
                before = connection.begun_bytes
                far_end._transport.write(part)
                await until(lambda before=before: connection.begun_bytes - before >= len(part))  # type: ignore[misc]
                assert not signs.look(second * SECOND_NS, SECOND_NS, owes=True)
                signs.cut_if_gone(second * SECOND_NS, QUICK)
            assert not here.lost
            assert signs.look(61 * SECOND_NS, SECOND_NS, owes=True)
            signs.cut_if_gone(62 * SECOND_NS, QUICK)
            await here.until_lost()

    uvloop.run(run())


def test_a_worker_that_loads_may_be_silent_for_longer(tmp_path: Path) -> None:
    """One call of a library may hold its loop as long as a load may take."""

    async def run() -> None:
        async with pair(f"unix:{tmp_path}/s") as (_, here, connection):
            signs = asked(connection)
            signs.loads = True
            signs.look(3 * SECOND_NS, SECOND_NS, owes=True)
            for second in range(4, 120):
                signs.look(second * SECOND_NS, SECOND_NS, owes=True)
                signs.cut_if_gone(second * SECOND_NS, QUICK)
            assert signs.silent
            assert not here.lost
            await asyncio.sleep(0)
            signs.cut_if_gone(124 * SECOND_NS, QUICK)
            await here.until_lost()

    uvloop.run(run())
