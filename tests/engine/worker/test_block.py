"""Requests that came as one and wait as one: each keeps its own deadline and may leave alone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.clock import ManualClock
from salver.core.errors import WireError
from salver.core.settings import EngineSettings
from salver.engine.worker.host import BatchHost
from salver.engine.worker.link import GatewayLink
from salver.engine.worker.loading import Loading
from salver.observe.meter import Meter
from salver.runtimes.base import BatchRuntime
from salver.wire.connection import Connection, LinkLimits
from salver.wire.framing import encode
from salver.wire.messages import (
    PROTOCOL_VERSION,
    BatchPolicy,
    Cancel,
    Chunk,
    ChunkMany,
    Fail,
    Hello,
    Infer,
    InferMany,
    Load,
    Message,
    TensorHeader,
)
from tests.engine.client.test_held import Wire
from tests.engine.runtimes import REFUSED, SIGNATURE, Affine

HEADER = (TensorHeader("x", "FP64", (1, 1), 8),)
MS_US = 1000


class Member(NamedTuple):
    """One request: what it asks, how long its caller waits, and whether the caller leaves."""

    value: float
    wait_ms: int
    leaves: bool


class Stage:
    """A version in a worker, asked by one gateway, on a clock that moves when it is told to."""

    def __init__(self, version: int, max_batch_size: int = 64) -> None:
        self.clock = ManualClock()
        policy = BatchPolicy(max_batch_size=max_batch_size)
        load = Load("m:1", "0" * 64, "test", (), "local", SIGNATURE, policy)
        loading: Loading[BatchRuntime] = Loading(
            load, lambda _: Affine(), self.clock, Meter(), lambda: None, 60.0
        )
        loading.state, loading.runtime = "ready", Affine()
        self.host = BatchHost(loading, EngineSettings(runner="inline"), self.clock, Meter())
        self.links: list[GatewayLink] = []
        self.wire = Wire()
        self.gateway = Connection(
            Hello(PROTOCOL_VERSION, "worker", "w", "0"),
            self._accept,
            initiator=False,
            limits=LinkLimits(1 << 20),
        )
        self.gateway.connection_made(self.wire)  # type: ignore[arg-type]
        self.say(Hello(version, "gateway", "g", "0"))
        self.last_id = 0

    def _accept(self, connection: Connection) -> GatewayLink:
        link = GatewayLink(
            connection,
            {"m:1": self.host}.get,
            lambda _: None,
            joins=True,
            folder=None,
            is_only=lambda: False,
        )
        self.links.append(link)
        return link

    def say(self, message: Message, payload: bytes = b"") -> None:
        """Let the gateway say something."""
        data = encode(message, len(payload)) + payload
        memoryview(self.gateway.get_buffer(-1))[: len(data)] = data
        self.gateway.buffer_updated(len(data))

    def ask(self, members: list[Member], *, together: bool) -> None:
        """Send requests, whose ids go on where the last ones ended."""
        ids = tuple(range(self.last_id + 1, self.last_id + 1 + len(members)))
        self.last_id += len(members)
        values = [np.float64(member.value).tobytes() for member in members]
        times = tuple(member.wait_ms * MS_US for member in members)
        if together:
            many = InferMany(ids, "m:1", HEADER, times, ("",) * len(members))
            self.say(many, b"".join(values))
        else:
            for request_id, time_us, value in zip(ids, times, values, strict=True):
                self.say(Infer(request_id, "m:1", HEADER, time_us, ""), value)
        for request_id, member in zip(ids, members, strict=True):
            if member.leaves:
                self.say(Cancel(request_id))

    async def run(self) -> dict[int, list[object]]:
        """Let the worker come to rest; returns what each request got."""
        for _ in range(200):
            await asyncio.sleep(0)
        assert self.links[0].open_jobs == 0
        assert self.host.idle
        self.host.close()
        got: dict[int, list[object]] = {}
        for message, payload in self.wire.messages:
            if isinstance(message, Fail):
                got.setdefault(message.id, []).append(message.code)
            elif isinstance(message, Chunk | ChunkMany):
                ids = (message.id,) if isinstance(message, Chunk) else message.ids
                values = np.frombuffer(payload, "<f8").tolist()
                for request_id, value in zip(ids, values, strict=True):
                    got.setdefault(request_id, []).append(value)
        return got

    def joint(self) -> list[ChunkMany]:
        """Return the joint answers."""
        return [message for message, _ in self.wire.messages if isinstance(message, ChunkMany)]


def play(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run one scene."""
    uvloop.run(coroutine)


members = st.builds(
    Member,
    st.sampled_from([1.0, 2.0, 3.0, 4.0, REFUSED]),
    st.integers(0, 4),
    st.sampled_from([False, False, False, True]),
)


@settings(deadline=None)
@given(
    turns=st.lists(st.lists(members, min_size=1, max_size=9), min_size=1, max_size=4),
    waited_ms=st.integers(0, 4),
    max_batch_size=st.integers(1, 12),
    version=st.sampled_from([2, 3]),
)
def test_a_block_is_answered_as_its_members(
    turns: list[list[Member]], waited_ms: int, max_batch_size: int, version: int
) -> None:
    """Every member ends once: with its own answer, late, or not at all if its caller left.

    Nothing of that depends on whether they came as one message or each in its own.
    """
    expected: dict[int, list[object]] = {}
    everybody = [member for turn in turns for member in turn]
    for number, member in enumerate(everybody, 1):
        if member.wait_ms <= waited_ms and not member.leaves:
            expected[number] = ["deadline_exceeded"]
        elif not member.leaves:
            refused = member.value == REFUSED
            expected[number] = ["model_failed" if refused else 3 * member.value + 1]

    async def scene() -> None:
        for together in (True, False):
            stage = Stage(version, max_batch_size)
            for turn in turns:
                stage.ask(turn, together=together)
            stage.clock.advance(waited_ms / 1000)
            assert await stage.run() == expected

    play(scene())


def test_one_late_member_is_late_alone() -> None:
    """Of a block with one expired deadline all others run as one batch, with one answer."""

    async def scene() -> None:
        stage = Stage(PROTOCOL_VERSION)
        waits_ms = [5, 9, 6, 1, 9, 7, 8, 9]
        stage.ask([Member(float(n), ms, False) for n, ms in enumerate(waits_ms)], together=True)
        assert stage.links[0].open_jobs == 1
        stage.clock.advance(0.002)
        got = await stage.run()
        assert got.pop(4) == ["deadline_exceeded"]
        assert got == {n + 1: [3.0 * n + 1] for n in range(8) if n != 3}
        (answer,) = stage.joint()
        assert answer.timing.batch_size == 7

    play(scene())


def test_different_deadlines_that_hold_keep_a_block_whole() -> None:
    """While nobody is late, members with deadlines of their own stay one job to the end."""

    async def scene() -> None:
        stage = Stage(PROTOCOL_VERSION)
        stage.ask([Member(float(n), 5 + n, False) for n in range(8)], together=True)
        stage.clock.advance(0.002)
        assert len(await stage.run()) == 8
        (answer,) = stage.joint()
        assert answer.ids == tuple(range(1, 9))

    play(scene())


@pytest.mark.parametrize(("version", "columns"), [(2, 8), (3, 1), (4, 1)])
def test_old_gateways_get_whole_columns(version: int, columns: int) -> None:
    """A gateway of version 2 is told of each member how long it waited, a newer one once."""

    async def scene() -> None:
        stage = Stage(version)
        stage.ask([Member(float(n), 5, False) for n in range(8)], together=True)
        stage.clock.advance(0.002)
        await stage.run()
        (answer,) = stage.joint()
        assert answer.queue_ns == (2_000_000,) * columns

    play(scene())


def test_a_message_that_does_not_add_up_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker closes the link on a cohort whose columns have other lengths."""

    async def scene() -> None:
        stage = Stage(PROTOCOL_VERSION)
        broken: list[WireError] = []
        monkeypatch.setattr(stage.gateway, "abort", broken.append)
        stage.say(InferMany((1, 2, 3), "m:1", HEADER, (5, 5), ()), bytes(24))
        stage.say(InferMany((1, 2, 3), "m:1", HEADER, (5,), ("",)), bytes(24))
        stage.say(InferMany((1, 2, 3), "m:1", HEADER, (5,), ()), bytes(16))
        assert len(broken) == 3
        assert stage.links[0].open_jobs == 0

    play(scene())
