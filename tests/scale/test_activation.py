"""Workers whose socket the supervisor holds, with real processes behind it."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from salver.core.clock import SystemClock
from salver.core.settings import SupervisorSettings
from salver.scale.local.activation import DoorChild
from salver.scale.local.start import Command
from salver.wire.connection import Connection
from salver.wire.messages import PROTOCOL_VERSION, Hello, Message, Snapshot
from salver.wire.transport import connect
from tests.scale.loop import in_loop

HELLO = Hello(PROTOCOL_VERSION, "gateway", "gateway-0", "test")
QUICK = SupervisorSettings(backoff_initial_s=0.02, backoff_max_s=0.5, stop_timeout_s=5.0)


class Listening:
    """Takes what a link says."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.over = asyncio.Event()

    def on_message(self, message: Message, payload: object) -> None:
        """Keep a message."""
        del payload
        self.said.append(message)

    def on_lost(self, error: Exception | None) -> None:
        """Note the end."""
        del error
        self.over.set()


@contextlib.asynccontextmanager
async def door_child(mode: str) -> AsyncIterator[tuple[DoorChild, str, list[str]]]:
    """Give a child on demand behind a door, its address, and the states it went through."""
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        path = Path(folder, "worker.sock")
        states: list[str] = []
        command = Command("own", "worker", "tests.scale.guest", ("--mode", mode))
        child = DoorChild(
            command, Path(folder), QUICK, SystemClock(), lambda: states.append(child.state)
        )
        child.provision(path)
        child.demand(("m:1",), on_demand=True, now=False)
        child.start()
        try:
            yield child, f"unix:{path}", states
        finally:
            await child.stop(5.0)


async def hear_out(address: str) -> list[Message]:
    """Connect, and return what was said until the other side closed."""
    listening = Listening()

    def accept(connection: Connection) -> Listening:
        del connection
        return listening

    await connect(address, HELLO, accept, 20.0)
    async with asyncio.timeout(20.0):
        await listening.over.wait()
    return listening.said


@in_loop
async def test_nothing_runs_until_somebody_connects() -> None:
    """The process starts for the first connection, and after it left for the next one."""
    async with door_child("greet") as (child, address, states):
        await asyncio.sleep(0.1)
        assert child.pid is None
        for _ in range(3):
            (said,) = await hear_out(address)
            assert isinstance(said, Snapshot)
            assert said.state == "ready"
        async with asyncio.timeout(20.0):
            while child.state != "asleep":  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert child.restarts == 0
        assert not any(state.startswith("restarting") for state in states)


@in_loop
async def test_who_waits_for_a_process_that_cannot_start_is_told() -> None:
    """After the second crash in a row the connection is answered with the cause, then closed."""
    async with door_child("crash") as (child, address, _):
        (said,) = await hear_out(address)
        assert isinstance(said, Snapshot)
        (state,) = said.variants
        assert (state.variant, state.state, state.code) == ("m:1", "failed", "worker_crashed")
        assert "exit 3" in state.error
        before = child.restarts
        assert before >= 2
        await hear_out(address)


@in_loop
async def test_a_crash_is_not_an_idle_exit() -> None:
    """One crash is counted as a restart, and the connection that waited is served after it."""
    async with door_child("crash-once") as (child, address, _):
        (said,) = await hear_out(address)
        assert isinstance(said, Snapshot)
        assert said.state == "ready"
        assert child.restarts == 1


@in_loop
@pytest.mark.parametrize("mode", ["crash-once", "exit-once"])
async def test_who_is_to_try_it_once_tries_again_after_a_crash(mode: str) -> None:
    """A process that was wanted without a connection comes back without one.

    Also if it said that all is well, but had not finished with a load.
    """
    async with door_child(mode) as (child, _, _):
        child.demand(("m:1",), on_demand=True, now=True)
        async with asyncio.timeout(20.0):
            while not child.restarts:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
            while child.pid is None:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert child.state == "running"


@in_loop
async def test_one_that_is_to_run_always_is_started_without_a_connection() -> None:
    """A child that is no longer on demand runs, and is restarted when it ends with 0."""
    async with door_child("greet") as (child, address, _):
        child.demand(("m:1",), on_demand=False, now=False)
        async with asyncio.timeout(20.0):
            while child.pid is None:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        await hear_out(address)
        async with asyncio.timeout(20.0):
            while not child.restarts:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)


@in_loop
async def test_stopping_closes_the_door() -> None:
    """Nobody can connect to a worker that the plan names no more."""
    async with door_child("greet") as (child, address, _):
        await child.stop(5.0)
        with pytest.raises(Exception, match="does not answer"):
            await connect(address, HELLO, lambda _: Listening(), 1.0)


@in_loop
async def test_one_that_comes_to_run_on_demand_is_not_started_for_nobody() -> None:
    """After its first idle end it sleeps, whatever was wanted while it ran."""
    async with door_child("greet") as (child, address, states):
        for _ in range(2):
            child.demand(("m:1",), on_demand=False, now=False)
            async with asyncio.timeout(20.0):
                while child.pid is None:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
        child.demand(("m:1",), on_demand=True, now=False)
        await hear_out(address)
        async with asyncio.timeout(20.0):
            while child.state != "asleep":  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert states.count("running") == 1
