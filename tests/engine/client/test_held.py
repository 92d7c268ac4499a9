"""Cohorts that travel whole: whatever the worker does, each member ends once, with its own."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.clock import ManualClock
from salver.core.cohort import Cohort, Piece
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.errors import SalverError
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse, form_of
from salver.core.settings import EngineSettings
from salver.core.signature import Signature
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.engine.client.handler import EngineClient
from salver.engine.client.held import Held, HeldCohorts
from salver.engine.client.pending import VariantRoute
from salver.observe.meter import Meter
from salver.wire.connection import Connection, LinkLimits
from salver.wire.framing import Buffer, FrameReceiver, encode
from salver.wire.messages import (
    PROTOCOL_VERSION,
    BatchPolicy,
    BatchStarted,
    Chunk,
    ChunkMany,
    EndpointPlan,
    Fail,
    Hello,
    Infer,
    InferMany,
    Message,
    Plan,
    TensorHeader,
    VariantPlan,
    WorkerPlan,
)
from salver.wire.transport import LinkOptions
from tests.engine.fleet import VARIANT, Fleet, Model, client_of, finish, fleet
from tests.engine.runtimes import GARBLED, POISON, REFUSED

HEADER = (TensorHeader("y", "FP32", (1, 1), 4),)


class Room:
    """Audience that notes what each member got: values, or the code of an error."""

    def __init__(self) -> None:
        self.results: dict[str, list[object]] = {}
        self.contexts: dict[str, RequestContext] = {}

    def seated(self, cohort: Cohort) -> None:
        """Need not know."""

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Note answers that come together."""
        values = np.frombuffer(response.outputs[0].buffer, "<f4").tolist()
        position = 0
        for cohort, start, stop in pieces:
            for request_id in cohort.request_ids[start:stop]:
                self.results.setdefault(request_id, []).append(values[position])
                position += 1
        assert position == len(values) == len(response.timings)

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Note one answer."""
        assert request.inputs[0].array().item() == value_of(context.request_id)
        self.contexts[context.request_id] = context
        return One(self, context.request_id)


class One:
    """Responder of one member."""

    def __init__(self, room: Room, request_id: str) -> None:
        self._room, self._id = room, request_id

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Note the answer."""
        assert final
        value = response.outputs[0].array().item()
        self._room.results.setdefault(self._id, []).append(value)

    def fail(self, error: SalverError) -> None:
        """Note the error."""
        self._room.results.setdefault(self._id, []).append(error.code)


def value_of(request_id: str) -> float:
    """Return what a request asks and shall be answered."""
    return float(request_id[1:])


class Wire:
    """Transport that reads what is written to it."""

    def __init__(self) -> None:
        self._frames = FrameReceiver(1 << 20)
        self._frames.trust()
        self.messages: list[tuple[Message, Buffer]] = []

    def write(self, data: bytes) -> None:
        """Take messages."""
        self._frames.buffer()[: len(data)] = data
        self.messages += self._frames.received(len(data))

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        """Nothing is buffered."""

    def get_extra_info(self, name: str) -> None:
        """Nothing is known."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Must not happen."""
        raise AssertionError


class Stage:
    """A client, one worker that does as it is told, and requests with numbers for values."""

    def __init__(self, max_in_flight: int = 4096, version: int = PROTOCOL_VERSION) -> None:
        self.clock, self.room = ManualClock(), Room()
        hello = Hello(PROTOCOL_VERSION, "gateway", "g", "0")
        self.engine = EngineClient(
            hello, EngineSettings(max_in_flight=max_in_flight), self.clock, Meter(), LinkOptions()
        )
        variant = VariantPlan(
            "m:1", "primary", "m", "1", "0", "test", 10_000, 1, Signature((), ()), ("w",)
        )
        plan = Plan(
            1, 0, (EndpointPlan("m", (variant,)),), (WorkerPlan("w", "shared", "tcp://h:1"),)
        )
        self.engine.apply(plan)
        self.link = self.engine._links["w"]
        self.wire = Wire()
        self.to_worker = Connection(
            hello, self.link._accepted, initiator=True, limits=LinkLimits(1 << 20)
        )
        self.to_worker.connection_made(self.wire)  # type: ignore[arg-type]
        self.say(Hello(version, "worker", "w", "0"))
        self.link.ready = frozenset(["m:1"])
        self.wire.messages.clear()
        self.asked = 0
        self.heard: list[Message] = []
        self.open: list[tuple[int, float]] = []
        self.cohorts: list[Cohort] = []

    def say(self, message: Message, payload: bytes = b"") -> None:
        """Let the worker say something."""
        data = encode(message, len(payload)) + payload
        memoryview(self.to_worker.get_buffer(-1))[: len(data)] = data
        self.to_worker.buffer_updated(len(data))

    def ask(self, count: int) -> Cohort:
        """Send a cohort."""
        values = [float(self.asked + n) for n in range(count)]
        self.asked += count
        payloads = [np.float32(value).tobytes() for value in values]
        template = InferenceRequest("m", [Tensor("x", "FP32", (1, 1), payloads[0])])
        form_of(template)
        template.inputs = []
        now_ns = self.clock.monotonic_ns()
        context = RequestContext("", ANONYMOUS, now_ns, now_ns + 1_000_000_000)
        context.variant = "m:1"
        ids = [f"r{int(value)}" for value in values]
        callers: list[str | None] = [None] * count
        cohort = Cohort(template, context, self.room, list(ids), ids, callers, payloads)
        self.engine.many([cohort])
        self.cohorts.append(cohort)
        self.hear()
        return cohort

    async def ask_singly(self, count: int) -> list[Message]:
        """Send requests one by one in one turn of the loop; returns the messages that went out."""
        heard = len(self.heard)
        for number in range(self.asked, self.asked + count):
            now_ns = self.clock.monotonic_ns()
            context = RequestContext(f"r{number}", ANONYMOUS, now_ns, now_ns + 1_000_000_000)
            context.variant = "m:1"
            tensor = Tensor("x", "FP32", (1, 1), np.float32(number).tobytes())
            self.engine(InferenceRequest("m", [tensor]), context, One(self.room, f"r{number}"))
        self.asked += count
        await asyncio.sleep(0)
        self.hear()
        return self.heard[heard:]

    def hear(self) -> None:
        """Take note of what the worker was asked."""
        messages, self.wire.messages = self.wire.messages, []
        for message, payload in messages:
            self.heard.append(message)
            if isinstance(message, InferMany):
                values = np.frombuffer(payload, "<f4").tolist()
                self.open += zip(message.ids, values, strict=True)
            elif isinstance(message, Infer):
                self.open.append((message.id, np.frombuffer(payload, "<f4").item()))

    def answer(self, count: int, *, backwards: bool = False) -> None:
        """Let the worker answer the oldest, or the newest, together."""
        if not self.open:
            return
        part = self.open[-count:] if backwards else self.open[:count]
        self.open = self.open[: -len(part)] if backwards else self.open[len(part) :]
        ids, values = zip(*part, strict=True)
        queue_ns = tuple(range(len(ids))) if len(ids) % 2 else (7,)
        message = ChunkMany(ids, HEADER, queue_ns, Timing())
        self.say(message, np.array(values, "<f4").tobytes())

    def answer_one(self, place: int) -> None:
        """Let the worker answer one by itself."""
        if self.open:
            request_id, value = self.open.pop(place % len(self.open))
            self.say(Chunk(request_id, 0, True, HEADER, Timing()), np.float32(value).tobytes())

    def fail(self, place: int) -> None:
        """Let the worker refuse one."""
        if self.open:
            request_id, _ = self.open.pop(place % len(self.open))
            self.say(Fail(request_id, "model_failed", "no"))

    def begin(self, count: int) -> None:
        """Let the worker say which it is about to run."""
        if self.open:
            self.say(BatchStarted(tuple(request_id for request_id, _ in self.open[:count])))

    def leave(self, place: int) -> str | None:
        """Let the client of one member leave; returns whose."""
        waiting = [f"r{int(value)}" for _, value in self.open]
        if not waiting:
            return None
        gone = waiting[place % len(waiting)]
        for cohort in self.cohorts:
            if gone in cohort.request_ids and cohort.when_apart is not None:
                cohort.when_apart()
        self.room.contexts[gone].cancel()
        return gone


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine."""
    uvloop.run(work)


ACTIONS = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 9)),
    st.tuples(st.just("answer"), st.integers(1, 12)),
    st.tuples(st.just("answer last"), st.integers(1, 12)),
    st.tuples(st.just("answer one"), st.integers(0, 20)),
    st.tuples(st.just("fail"), st.integers(0, 20)),
    st.tuples(st.just("begin"), st.integers(1, 12)),
    st.tuples(st.just("leave"), st.integers(0, 20)),
)


class Play:
    """Acts out a script and remembers who left and who was refused."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.failed: set[str] = set()
        self.left: set[str] = set()

    async def act(self, action: str, number: int) -> None:
        """Do one thing."""
        stage = self.stage
        if action == "leave":
            gone = stage.leave(number)
            self.left |= {gone} if gone else set()
        elif action == "fail":
            if stage.open:
                self.failed.add(f"r{int(stage.open[number % len(stage.open)][1])}")
            stage.fail(number)
        else:
            acts: dict[str, Callable[[int], object]] = {
                "ask": stage.ask,
                "answer": stage.answer,
                "answer last": lambda count: stage.answer(count, backwards=True),
                "answer one": stage.answer_one,
                "begin": stage.begin,
            }
            acts[action](number)
        await asyncio.sleep(0)
        stage.hear()

    def check(self, *, lost: bool) -> None:
        """Make sure that everybody had one end, and the right one."""
        for number in range(self.stage.asked):
            name = f"r{number}"
            got = self.stage.room.results.get(name, [])
            if name in self.left:
                assert len(got) <= 1
            elif name in self.failed:
                assert got == ["model_failed"]
            elif got != [float(number)]:
                assert lost
                assert got in (["not_ready"], ["worker_crashed"], [])


@given(script=st.lists(ACTIONS, max_size=25), lost=st.booleans())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_each_member_ends_once(script: list[tuple[str, int]], *, lost: bool) -> None:
    """Answers in pieces, out of order, alone, refusals, leavers, death: one end for each.

    Who is answered gets its own value, who left gets nothing more, and every place is given back.
    """

    async def play() -> None:
        acted = Play()
        stage = acted.stage
        for action, number in script:
            await acted.act(action, number)
        if lost:
            stage.link.on_lost(None)
        else:
            stage.answer(len(stage.open))
            assert stage.engine.in_flight == 0
        acted.check(lost=lost)
        waiting = len(stage.engine._waiting)
        assert stage.engine.open_requests("m:1") == stage.link.open_count + waiting
        await stage.engine.stop()
        ends = [stage.room.results.get(f"r{number}", []) for number in range(stage.asked)]
        assert all(
            len(got) == 1 for number, got in enumerate(ends) if f"r{number}" not in acted.left
        )

    run(play())


@pytest.mark.parametrize(("version", "times", "names"), [(2, 5, 5), (3, 1, 0), (4, 1, 0)])
def test_old_workers_get_whole_columns(version: int, times: int, names: int) -> None:
    """A worker of version 2 is told each member's time and id, a newer one what it needs.

    Either answer is understood.
    """

    async def play() -> None:
        stage = Stage(version=version)
        cohort = stage.ask(5)
        (message,) = [heard for heard in stage.heard if isinstance(heard, InferMany)]
        assert message.remaining_us == (1_000_000,) * times
        assert message.request_ids == tuple(cohort.request_ids)[:names]
        stage.answer(3)
        stage.answer(2)
        assert stage.room.results == {f"r{n}": [float(n)] for n in range(5)}
        await stage.engine.stop()

    run(play())


def test_a_turn_in_company_is_followed_by_one() -> None:
    """Who asks alone is sent at once; after a turn of many, the next turn is one message."""

    async def play() -> None:
        stage = Stage()
        kinds: list[list[type[Message]]] = []
        for count in (1, 6, 6, 1, 1, 2):
            kinds.append([type(message) for message in await stage.ask_singly(count)][-2:])
            stage.answer(count)
        assert kinds[0][-1] is Infer
        assert kinds[1:] == [[Infer, InferMany], [InferMany], [Infer], [Infer], [Infer, Infer]]
        assert stage.room.results == {f"r{n}": [float(n)] for n in range(stage.asked)}
        await stage.engine.stop()

    run(play())


def test_each_audience_gets_its_own() -> None:
    """Cohorts that the worker answers together may have been asked by different doors."""

    async def play() -> None:
        stage = Stage()
        doors = [Room(), Room(), Room()]
        for door in (doors[0], doors[0], doors[1], doors[2], doors[0]):
            stage.room = door
            stage.ask(3)
        stage.answer(15)
        seen = [sorted(door.results.items()) for door in doors]
        expected = [(0, 1, 2, 3, 4, 5, 12, 13, 14), (6, 7, 8), (9, 10, 11)]
        for results, numbers in zip(seen, expected, strict=True):
            assert results == sorted((f"r{n}", [float(n)]) for n in numbers)
        assert stage.engine.in_flight == 0
        await stage.engine.stop()

    run(play())


def test_late_members_are_told() -> None:
    """When a cohort's deadline passes, each member ends so, and a late answer is dropped."""

    async def play() -> None:
        stage = Stage()
        stage.ask(4)
        stage.answer(1)
        stage.clock.advance(2.0)
        stage.engine._sweep(stage.clock.monotonic_ns())
        assert stage.room.results["r0"] == [0.0]
        assert [stage.room.results[f"r{n}"] for n in (1, 2, 3)] == [["deadline_exceeded"]] * 3
        stage.answer(3)
        assert stage.room.results["r3"] == ["deadline_exceeded"]
        assert stage.engine.in_flight == 0
        await stage.engine.stop()

    run(play())


def test_what_does_not_fit_is_refused_one_by_one() -> None:
    """Over the limit of open requests, as many members are sent as have room."""

    async def play() -> None:
        stage = Stage(max_in_flight=5)
        stage.ask(3)
        stage.ask(4)
        await asyncio.sleep(0)
        stage.hear()
        assert len(stage.open) == 5
        assert [stage.room.results[f"r{n}"] for n in (5, 6)] == [["overloaded"]] * 2
        stage.answer(5)
        assert stage.room.results["r4"] == [4.0]
        await stage.engine.stop()

    run(play())


def test_a_running_cohort_is_known_to_run() -> None:
    """News of a start reaches members that are still together, and those that are not."""

    async def play() -> None:
        stage = Stage()
        stage.ask(3)
        stage.ask(3)
        stage.begin(4)
        (whole,) = list(stage.link.held)
        assert (len(whole.ids), whole.started) == (3, True)
        assert [one.started for one in stage.link.pending.values()] == [True, False, False]
        stage.link.take_apart(whole)
        assert [stage.link.pending[request_id].started for request_id in whole.ids] == [True] * 3
        stage.answer(6)
        await stage.engine.stop()

    run(play())


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), cut=st.integers(0, 30))
def test_cohorts_are_found_by_their_ids(sizes: list[int], cut: int) -> None:
    """Ids in a row are found as the cohorts they are; any other id ends the search."""
    stage_ids: list[int] = []
    held, first = HeldCohorts(), 1
    cohort = Cohort(
        InferenceRequest("m", []), RequestContext("", ANONYMOUS, 0, 0), Room(), [], [], [], []
    )
    route = VariantRoute(
        VariantPlan("m:1", "primary", "m", "1", "0", "t", 1, 1, Signature((), ()), ())
    )
    for size in sizes:
        held.add(Held(cohort, route, tuple(range(first, first + size))))
        stage_ids += range(first, first + size)
        first += size
    count = min(cut, len(stage_ids))
    found = held.find((*stage_ids[:count], 999))
    assert sum(stop - one.start for one, stop in found) <= count
    exact = held.find(tuple(stage_ids[:count]))
    assert sum(stop - one.start for one, stop in exact) == count
    assert held.members == sum(sizes)
    assert held.having(stage_ids[-1]) is not None
    assert held.having(999) is None


@pytest.mark.parametrize("ledger", [True, False])
def test_poison_in_a_cohort_hurts_itself_only(*, ledger: bool) -> None:
    """The member that kills its worker ends in an error, every other one in its answer."""

    async def play(running: Fleet) -> None:
        async with client_of(running, EngineSettings(ledger=ledger)) as callers:
            nurse = asyncio.create_task(running.keep_alive())
            before = callers.ask_together([float(n) for n in range(20)])
            values = [float(n) for n in range(20, 40)]
            values[7] = POISON
            among = callers.ask_together(values)
            await finish([*before, *among])
            nurse.cancel()
            assert {caller.outcome for caller in before} == {"ok"}
            assert [n for n, caller in enumerate(among) if caller.outcome != "ok"] == [7]
            assert among[7].outcome == "worker_crashed"
            assert all(c.answer == 3 * c.value + 1 for c in callers.all if c.outcome == "ok")
            assert callers.client.in_flight == 0

    with fleet(workers=2) as running:
        run(play(running))


def test_a_failing_member_fails_alone() -> None:
    """A batch that the model refuses is tried member by member."""

    async def play(running: Fleet) -> None:
        async with client_of(running) as callers:
            values = [float(n) for n in range(12)]
            values[3] = REFUSED
            together = callers.ask_together(values)
            await finish(together)
            assert [n for n, caller in enumerate(together) if caller.outcome != "ok"] == [3]
            assert together[3].outcome == "model_failed"
            assert callers.client.open_requests(VARIANT) == 0

    with fleet() as running:
        run(play(running))


def test_a_garbled_complaint_of_a_model_reaches_its_caller() -> None:
    """Text that cannot be sent as it is ends one request, and the others are answered."""

    async def play(running: Fleet) -> None:
        async with client_of(running) as callers:
            values = [float(n) for n in range(6)]
            values[0] = GARBLED
            together = callers.ask_together(values)
            await finish(together, timeout_s=20)
            outcomes = [caller.outcome for caller in together]
            assert outcomes == ["model_failed", *["ok"] * 5]
            assert "\\ud800" in str(together[0].error)

    with fleet() as running:
        run(play(running))


def test_a_full_queue_takes_what_fits() -> None:
    """Of a cohort that is larger than the queue, the members that fit are answered."""

    async def play(running: Fleet) -> None:
        async with client_of(running) as callers:
            together = callers.ask_together([float(n) for n in range(12)])
            await finish(together)
            outcomes = [caller.outcome for caller in together]
            assert outcomes == ["ok"] * 8 + ["overloaded"] * 4

    with fleet(Model(policy=BatchPolicy(max_batch_size=4, max_queue=8))) as running:
        run(play(running))
