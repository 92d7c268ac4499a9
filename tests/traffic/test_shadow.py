"""Copies for shadows: after the answer, bounded, compared, and never anybody's trouble."""

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import uvloop

from salver.core.clock import Clock, ManualClock
from salver.core.cohort import Cohort, Piece, one_by_one
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.errors import (
    CircuitOpen,
    DeadlineExceeded,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
    ValueRejected,
)
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse, form_of
from salver.core.settings import ShadowSettings
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.observe.meter import Meter
from salver.traffic.busy import Busy
from salver.traffic.shadow import Shadows
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))
Values = npt.NDArray[Any]
P = ParamSpec("P")
TIMING = Timing(queue_ns=10, run_ns=1000)


def row(*values: float) -> Values:
    """Return one row."""
    return np.array([values], np.float32)


def plan(sample: int) -> Plan:
    """Return a plan with a shadow."""
    variants = tuple(
        VariantPlan(
            f"m:{number}", role, "m", str(number), "0" * 64, "onnx", weight, 7, SIGNATURE, (),
            sample=part,
        )
        for number, role, weight, part in ((1, "primary", 10_000, 0), (2, "shadow", 0, sample))
    )  # fmt: skip
    return Plan(1, 0, (EndpointPlan("e", variants),))


class Models:
    """The handler behind: version 1 gives back its input; what version 2 does can be chosen."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.shadow: Callable[[Values], Values] = lambda values: values
        self.fault: Exception | None = None
        self.hold = False
        self.held: list[Callable[[], None]] = []
        self.contexts: list[RequestContext] = []

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer one request."""
        self.log.append(context.variant)
        self.contexts.append(context)

        def answer() -> None:
            values = self._values(context, request.inputs[0].array())
            responder.send(InferenceResponse([Tensor.from_array("y", values)], TIMING))

        if context.variant == "m:2" and isinstance(self.fault, SalverError):
            responder.fail(self.fault)
        elif context.variant == "m:2" and self.fault is not None:
            raise self.fault
        elif context.variant == "m:2" and self.hold:
            self.held.append(answer)
        else:
            answer()

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Answer cohorts."""
        for cohort in cohorts:
            self.log.append(f"{cohort.context.variant}x{len(cohort)}")
            if cohort.context.variant == "m:2" and self.fault is not None:
                raise self.fault
            values = np.frombuffer(b"".join(cohort.payloads), np.float32).reshape(-1, 2)
            tensor = Tensor.from_array("y", self._values(cohort.context, values))
            response = JointResponse([tensor], 1, [TIMING] * len(cohort))
            cohort.audience.answer([Piece(cohort, 0, len(cohort))], response)

    def _values(self, context: RequestContext, values: Values) -> Values:
        return self.shadow(values) if context.variant == "m:2" else values


class Caller:
    """Responder that notes when it was answered."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Note the answer."""
        del response, final
        self.log.append("answered")

    def fail(self, error: SalverError) -> None:
        """Note the error."""
        self.log.append(error.code)


class Room:
    """Audience that notes when it was answered."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def seated(self, cohort: Cohort) -> None:
        """Need not know."""

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Note the answer."""
        del pieces, response
        self.log.append("answered")

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return a caller."""
        del cohort, index, request, context
        return Caller(self.log)


class Singly(Room):
    """Audience that answers its members one by one."""

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Answer each as if it had come by itself."""
        for piece in pieces:
            for index in range(piece.start, piece.stop):
                _, _, responder = piece.cohort.member(index)
                responder.send(InferenceResponse([*response.outputs], response.timings[index]))


class World:
    """A shadow handler, what is behind it, and what happened."""

    def __init__(self, sample: int = 10_000, clock: Clock | None = None, **settings: float) -> None:
        self.log: list[str] = []
        self.models = Models(self.log)
        self.meter = Meter()
        self.busy = Busy(ManualClock(), lambda: 0)
        chosen = ShadowSettings(**settings)  # type: ignore[arg-type]
        clock = clock or ManualClock()
        self.shadows = Shadows(self.models, chosen, self.meter, clock, random.Random(0), self.busy)
        self.shadows.apply(plan(sample))

    def ask(self, value: float = 1.0, epoch: int = 7) -> None:
        """Send one request to the primary version."""
        tensor = Tensor.from_array("x", np.full((1, 2), value, np.float32))
        context = RequestContext("id", ANONYMOUS, 0, 1, variant="m:1", weight_epoch=epoch)
        self.shadows(InferenceRequest("e", [tensor]), context, Caller(self.log))

    def ask_together(self, count: int, epoch: int = 7, room: type[Room] = Room) -> None:
        """Send a cohort to the primary version."""
        tensor = Tensor.from_array("x", np.zeros((1, 2), np.float32))
        form = form_of(InferenceRequest("e", [tensor]))
        context = RequestContext("", ANONYMOUS, 0, 1, variant="m:1", weight_epoch=epoch)
        payloads = [np.full(2, number, np.float32).tobytes() for number in range(count)]
        ids = [str(number) for number in range(count)]
        request = InferenceRequest("e", [], form=form)
        cohort = Cohort(request, context, room(self.log), [*ids], ids, [None] * count, payloads)
        self.shadows.many([cohort])

    def copies(self) -> dict[str, float]:
        """Return how copies ended, and how many."""
        return {
            sample.labels[-1]: sample.value
            for sample in self.meter.counters()
            if sample.name == "salver_shadow_copies_total"
        }


def in_loop(
    test: Callable[P, Coroutine[object, object, None]],
) -> Callable[P, None]:
    """Run a test in a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


async def settle() -> None:
    """Let what is due happen."""
    for _ in range(5):
        await asyncio.sleep(0)


@in_loop
async def test_the_caller_is_answered_first() -> None:
    """The copy is not even sent before, and is compared afterwards."""
    world = World()
    world.ask()
    assert world.log == ["m:1", "answered"]
    await settle()
    assert world.log == ["m:1", "answered", "m:2"]
    assert world.copies() == {"agrees": 1}
    copy = world.models.contexts[-1]
    assert (copy.principal.name, copy.idempotent, copy.weight_epoch) == ("shadow", False, 0)


@in_loop
async def test_what_is_taken_apart_behind_it_is_copied() -> None:
    """As by a check of values or a cache, which look at each request by itself."""
    world = World()

    def apart(cohorts: Sequence[Cohort]) -> None:
        for cohort in cohorts:
            if cohort.context.variant == "m:1":
                one_by_one(world.models, cohort)
            else:
                world.models.many([cohort])

    world.shadows.inner_many = apart
    world.ask_together(8)
    await settle()
    assert world.log.count("answered") == 8
    assert world.copies() == {"agrees": 8}


@in_loop
async def test_what_is_answered_one_by_one_is_copied_once() -> None:
    """An audience may ask for its members while the joint answer is delivered."""
    world = World()
    world.ask_together(8, room=Singly)
    await settle()
    assert world.log.count("answered") == 8
    assert world.copies() == {"agrees": 8}


@in_loop
async def test_differences_are_counted() -> None:
    """A shadow that answers something else differs."""
    world = World()
    world.models.shadow = lambda values: values[:, ::-1] + row(0, 1)
    world.ask()
    await settle()
    assert world.copies() == {"differs": 1}


@pytest.mark.parametrize("fault", [ModelFailed("broken"), RuntimeError("a fault of ours")])
@in_loop
async def test_a_failing_shadow_is_nobodys_trouble(fault: Exception) -> None:
    """Callers have their answers, alone and together, and the failures are counted."""
    world = World()
    world.models.fault = fault
    world.ask()
    world.ask_together(4)
    await settle()
    assert [entry for entry in world.log if not entry.startswith("m:")] == ["answered"] * 2
    assert world.copies() == {"failed": 5}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Overloaded("full"), "dropped"),
        (NotReady("its worker restarts"), "dropped"),
        (CircuitOpen("a pause"), "dropped"),
        (DeadlineExceeded("late"), "failed"),
        (ValueRejected("not what it takes"), "failed"),
    ],
    ids=lambda value: getattr(value, "code", value),
)
@in_loop
async def test_a_copy_without_room_says_nothing_of_the_version(
    fault: SalverError, outcome: str
) -> None:
    """It never ran; one that ran out of time did, and its original was answered."""
    world = World()
    world.models.fault = fault
    world.ask()
    await settle()
    assert world.copies() == {outcome: 1}


@in_loop
async def test_only_a_sample_is_copied() -> None:
    """A fifth of the requests, alone or together; what a rule decided is not."""
    world = World(2_000, max_waiting=10_000)
    for _ in range(500):
        world.ask()
        await settle()
    assert 60 < world.copies()["agrees"] < 140
    world = World(2_000)
    world.ask_together(200)
    await settle()
    assert 20 < world.copies()["agrees"] < 60
    world = World()
    world.ask(epoch=0)
    world.ask_together(3, epoch=0)
    await settle()
    assert world.log == ["m:1", "answered", "m:1x3", "answered"]


@in_loop
async def test_a_cohort_is_copied_as_one() -> None:
    """Each member's copy is compared with its own answer."""
    world = World()
    world.models.shadow = lambda values: np.where(values == 3, row(9, -9), values)
    world.ask_together(8)
    assert world.log == ["m:1x8", "answered"]
    await settle()
    assert world.log == ["m:1x8", "answered", "m:2x8"]
    # The others have two equal values, of which the first is the highest for both versions.
    assert world.copies() == {"agrees": 8}
    world.models.shadow = lambda values: np.where(values == 3, row(-9, 9), values)
    world.ask_together(8)
    await settle()
    assert world.copies() == {"agrees": 15, "differs": 1}


@in_loop
async def test_copies_are_bounded() -> None:
    """A shadow that does not answer takes so many and no more; the rest is dropped."""
    world = World(max_open=3, max_waiting=5, quiet=False)
    world.models.hold = True
    for number in range(20):
        world.ask(number)
        await settle()
    assert world.log.count("answered") == 20
    assert len(world.models.held) == 3
    assert world.copies() == {"dropped": 12}
    world.models.hold = False
    for answer in world.models.held:
        answer()
    await settle()
    assert world.copies() == {"dropped": 12, "agrees": 8}


@in_loop
async def test_waiting_copies_are_bounded_in_bytes() -> None:
    """A request and its answer take 16 bytes here."""
    world = World(max_open=1, max_waiting_bytes=40)
    world.models.hold = True
    for number in range(6):
        world.ask(number)
        await settle()
    assert len(world.models.held) == 1
    assert world.copies() == {"dropped": 3}


@in_loop
async def test_copies_wait_until_it_is_quiet() -> None:
    """None is sent while a request waits for the primary version or a copy runs, and none stays."""
    world = World()
    waiting = {"m:1": 1}
    world.shadows.open_requests = lambda variant: waiting.get(variant, 0)
    for number in range(3):
        world.ask(number)
    await settle()
    assert "m:2" not in world.log
    world.models.hold = True
    waiting.clear()
    await asyncio.sleep(0.05)
    assert len(world.models.held) == 1
    world.models.hold = False
    world.models.held[0]()
    await settle()
    assert world.copies() == {"agrees": 3}


@in_loop
async def test_where_it_is_never_quiet_some_are_copied() -> None:
    """One now and then, so that a shadow of a busy endpoint is compared too."""
    clock = ManualClock()
    world = World(clock=clock)
    world.shadows.open_requests = lambda _variant: 1
    for number in range(3):
        world.ask(number)
    for sent in (1, 2):
        clock.advance(0.1)
        await asyncio.sleep(0.05)
        assert world.copies() == {"agrees": sent}


@in_loop
async def test_a_full_queue_of_copies_is_emptied_when_it_is_quiet() -> None:
    """What is dropped meanwhile does not keep what waits from being sent."""
    world = World(max_waiting=2)
    waiting = {"m:1": 1}
    world.shadows.open_requests = lambda variant: waiting.get(variant, 0)
    for number in range(5):
        world.ask(number)
        await settle()
    assert world.copies() == {"dropped": 3}
    waiting.clear()
    await asyncio.sleep(0.05)
    assert world.copies() == {"dropped": 3, "agrees": 2}


@in_loop
async def test_a_busy_gateway_copies_nothing() -> None:
    """Nor one whose requests wait for the primary version."""
    world = World()
    world.busy.share = 0.9
    world.ask()
    await settle()
    assert world.copies() == {"dropped": 1}
    world = World()
    for _ in range(40):
        world.shadows.observe(Timing(queue_ns=5_000, run_ns=1_000))
    world.ask()
    await settle()
    assert world.copies() == {"dropped": 1}


@in_loop
async def test_without_shadows_nothing_stands_between() -> None:
    """The audience of a cohort stays its own."""
    world = World()
    world.shadows.apply(Plan(2, 0))
    world.ask()
    world.ask_together(2)
    await settle()
    assert world.log == ["m:1", "answered", "m:1x2", "answered"]


def test_busy_is_the_share_of_a_core() -> None:
    """Measured from one call to the next."""
    clock, used_ns = ManualClock(), [0]
    busy = Busy(clock, lambda: used_ns[0])
    busy.sample()
    assert busy.share == 0
    clock.advance(2)
    used_ns[0] = 500_000_000
    busy.sample()
    assert busy.share == pytest.approx(0.25)


@in_loop
async def test_a_shadow_that_hangs_holds_up_no_other() -> None:
    """Each shadow has a line of its own, and its part of what may wait and be open."""
    world = World(max_open=8, max_waiting=100)
    endpoint = plan(10_000).endpoints[0]
    others = tuple(
        msgspec.structs.replace(variant, id=variant.id.replace("m", "n"), model="n")
        for variant in endpoint.variants
    )
    beside = msgspec.structs.replace(endpoint, name="f", variants=others)
    world.shadows.apply(Plan(1, 0, (endpoint, beside)))
    world.models.hold = True
    for number in range(200):
        world.ask(number)
    await settle()
    tensor = Tensor.from_array("x", row(1, 2))
    for _ in range(20):
        context = RequestContext("id", ANONYMOUS, 0, 1, variant="n:1", weight_epoch=7)
        world.shadows(InferenceRequest("f", [tensor]), context, Caller(world.log))
        await settle()
    assert world.log.count("m:2") == 1
    assert world.log.count("n:2") == 20
