"""Equal requests get equal answers, each caller exactly one, whoever leaves and whatever fails."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.clock import ManualClock
from salver.core.cohort import Cohort, Piece
from salver.core.context import ANONYMOUS, Principal, RequestContext
from salver.core.errors import DeadlineExceeded, ModelFailed, SalverError
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse, form_of
from salver.core.signature import Signature
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.observe.meter import Meter
from salver.traffic.cache import ResponseCache
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

OTHER_TENANT = Principal("stranger", "others")


def plan(*, cache: bool = True, digest: str = "a" * 64, idempotent: bool = True) -> Plan:
    """Return the plan of endpoint ``e``, which serves ``e:1``."""
    variant = VariantPlan(
        "e:1", "primary", "e", "1", digest, "test", 10_000, 1, Signature((), ()), ("w",)
    )
    variant = msgspec.structs.replace(variant, idempotent=idempotent)
    return Plan(1, 0, (EndpointPlan("e", (variant,), cache=cache),))


class Engine:
    """The handler at the end: holds requests until a test answers them."""

    def __init__(self) -> None:
        self.open: list[tuple[InferenceRequest, RequestContext, Responder]] = []
        self.whole: list[Cohort] = []
        self.asked = 0

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Hold a request; its caller may leave."""
        self.asked += 1
        entry = (request, context, responder)
        self.open.append(entry)
        context.on_cancel = lambda: self.open.remove(entry)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Take note of what came whole."""
        self.whole += cohorts

    def answer(self, index: int = 0) -> None:
        """Answer three times the value."""
        request, context, responder = self.open.pop(index)
        context.on_cancel = None
        value = 3 * request.inputs[0].array()
        responder.send(InferenceResponse([Tensor.from_array("y", value)], Timing()))

    def fail(self, error: SalverError, index: int = 0) -> None:
        """End a request with an error."""
        _, context, responder = self.open.pop(index)
        context.on_cancel = None
        responder.fail(error)

    def end(self, how: str, number: int) -> None:
        """Answer one of the open requests, if there is any, or let it fail."""
        if not self.open:
            return
        index = number % len(self.open)
        if how == "answer":
            self.answer(index)
        else:
            self.fail(ModelFailed("no") if how == "fail" else DeadlineExceeded("late"), index)


class Ticking(ManualClock):
    """A clock of which each reading is a microsecond later than the last."""

    def monotonic_ns(self) -> int:
        """Return the reading, and move on."""
        self.advance(1e-6)
        return super().monotonic_ns()


class Caller:
    """One request and all that it got."""

    def __init__(self, value: float, deadline_ns: int, principal: Principal = ANONYMOUS) -> None:
        self.value = value
        self.context = RequestContext("0" * 40, principal, 0, deadline_ns, variant="e:1")
        self.got: list[float | str] = []
        self.timings: list[Timing | None] = []

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Take an answer, and change what was given, as the gateway may."""
        del final
        self.got.append(float(response.outputs[0].array().item()))
        self.timings.append(response.timing)
        response.outputs.clear()
        response.parameters = {"changed": True}

    def fail(self, error: SalverError) -> None:
        """Take a failure."""
        self.got.append(error.code)


class Scene:
    """A cache before an engine."""

    def __init__(self, max_bytes: int = 1 << 20, **options: Any) -> None:
        self.engine, self.meter = Engine(), Meter()
        self.cache = ResponseCache(self.engine, self.meter, max_bytes, Ticking())
        self.cache.apply(plan(**options))

    def ask(
        self,
        value: float,
        deadline_ns: int = 1000,
        *,
        principal: Principal = ANONYMOUS,
        **more: Any,
    ) -> Caller:
        """Ask for three times a value."""
        caller = Caller(value, deadline_ns, principal)
        caller.context.idempotent = more.pop("idempotent", True)
        inputs = [Tensor.from_array("x", np.array([[value]], more.pop("dtype", "<f8")))]
        self.cache(InferenceRequest("e", inputs, **more), caller.context, caller)
        return caller

    def count(self, result: str) -> float:
        """Return how many requests were counted so."""
        return sum(s.value for s in self.meter.counters() if s.labels == ("e", result))


def test_equal_requests_are_answered_from_memory() -> None:
    """The second one asks nobody, gets the same, and says that nothing ran for it."""
    scene = Scene()
    first = scene.ask(2.0)
    scene.engine.answer()
    second = scene.ask(2.0)
    assert (first.got, second.got) == ([6.0], [6.0])
    assert scene.ask(2.0).got == [6.0]
    assert first.timings == [Timing()]
    assert second.timings == [None]
    assert scene.engine.asked == 1
    assert (scene.count("miss"), scene.count("hit")) == (1, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"value": 3.0},
        {"value": -0.0},
        {"dtype": "<i8"},
        {"outputs": ("y",)},
        {"parameters": {"temperature": 1}},
        {"principal": OTHER_TENANT},
    ],
)
def test_what_differs_in_anything_is_not_equal(other: dict[str, Any]) -> None:
    """Bytes, datatype, outputs, parameters and tenant all count; zero and minus zero differ."""
    scene = Scene()
    scene.ask(0.0)
    scene.engine.answer()
    assert scene.ask(**{"value": 0.0, **other}).got == []
    assert scene.engine.asked == 2


def test_how_urgent_a_request_is_changes_no_answer() -> None:
    """Priority and timeout are of the call; true and 1 are different parameters."""
    scene = Scene()
    scene.ask(1.0, parameters={"k": 1, "priority": 3})
    scene.engine.answer()
    assert scene.ask(1.0, parameters={"timeout": 7, "k": 1}).got == [3.0]
    assert scene.ask(1.0, parameters={"k": True}).got == []


def test_who_asks_the_same_at_once_waits_for_one_run() -> None:
    """However many ask, the engine is asked once and each gets one answer."""
    scene = Scene()
    callers = [scene.ask(2.0, 1000 + n) for n in range(5)]
    assert scene.engine.asked == 1
    scene.engine.answer()
    assert [caller.got for caller in callers] == [[6.0]] * 5
    assert [caller.timings for caller in callers] == [[Timing()]] + [[None]] * 4
    assert [caller.context.joined for caller in callers] == [False] + [True] * 4
    assert scene.count("joined") == 4


def test_how_long_memory_was_looked_at_is_in_the_context() -> None:
    """A hit and who joins have the time of looking, a run also that of keeping, others none."""
    scene = Scene()
    run, joined = scene.ask(2.0), scene.ask(2.0)
    scene.engine.answer()
    hit, never = scene.ask(2.0), scene.ask(2.0, idempotent=False)
    contexts = [caller.context for caller in (run, joined, hit, never)]
    assert [context.memory_ns for context in contexts] == [2000, 1000, 1000, -1]
    assert Scene(cache=False).ask(2.0).context.memory_ns == -1


def test_each_attempt_is_of_the_first_who_waits_for_its_end() -> None:
    """Who leaves, and who has more time and waits for another attempt, are told apart from it."""
    scene = Scene()
    callers = [scene.ask(2.0, deadline_ns) for deadline_ns in (1000, 1000, 2000, 2000, 2000)]
    callers[1].context.cancel()
    scene.engine.fail(DeadlineExceeded("late"))
    callers[4].context.cancel()
    scene.engine.fail(ModelFailed("no"))
    assert [caller.context.joined for caller in callers] == [False, True, False, True, True]


def test_an_error_is_shared_but_not_kept() -> None:
    """Those who waited for the run get its error; who asks after that asks the engine again."""
    scene = Scene()
    callers = [scene.ask(2.0) for _ in range(3)]
    scene.engine.fail(ModelFailed("no"))
    assert [caller.context.joined for caller in callers] == [False, True, True]
    assert [caller.got for caller in callers] == [["model_failed"]] * 3
    later = scene.ask(2.0)
    scene.engine.answer()
    assert later.got == [6.0]


def test_the_first_one_leaves() -> None:
    """The run goes on for the others; when the last one leaves it is cancelled."""
    scene = Scene()
    first, second = scene.ask(2.0), scene.ask(2.0)
    first.context.cancel()
    assert len(scene.engine.open) == 1
    scene.engine.answer()
    assert (first.got, second.got) == ([], [6.0])
    only = scene.ask(5.0)
    only.context.cancel()
    assert scene.engine.open == []
    after = scene.ask(5.0)
    scene.engine.answer()
    assert after.got == [15.0]


def test_who_has_more_time_goes_on() -> None:
    """When the first one's deadline has passed, those with a later one are asked for again."""
    scene = Scene()
    first, second, third = scene.ask(2.0, 10), scene.ask(2.0, 20), scene.ask(2.0, 30)
    scene.engine.fail(DeadlineExceeded("late"))
    assert (first.got, second.got, third.got) == (["deadline_exceeded"], [], [])
    assert scene.engine.open[0][1].deadline_ns == 20
    scene.engine.answer()
    assert (second.got, third.got) == ([6.0], [6.0])


def test_who_has_less_time_goes_alone() -> None:
    """A caller whose deadline is before the run's does not wait for it."""
    scene = Scene()
    scene.ask(2.0, 20)
    hurried = scene.ask(2.0, 10)
    assert scene.engine.asked == 2
    scene.engine.answer(1)
    assert hurried.got == [6.0]


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"cache": False}, {}),
        ({"idempotent": False}, {}),
        ({}, {"idempotent": False}),
        ({}, {"parameters": {"stream": True}}),
        ({}, {"parameters": {"list": [1]}}),
    ],
)
def test_what_may_not_be_kept_goes_through(options: dict[str, Any], more: dict[str, Any]) -> None:
    """Endpoints that did not ask for it, what may not run twice and streams ask the engine."""
    scene = Scene(**options)
    for _ in range(3):
        scene.ask(1.0, **more)
        scene.engine.answer()
    assert scene.engine.asked == 3


def test_answers_in_parts_are_passed_on_and_not_kept() -> None:
    """A model that answers chunk by chunk gives all to who waited, and is asked again after."""
    scene = Scene()
    callers = [scene.ask(1.0) for _ in range(2)]
    part = InferenceResponse([Tensor.from_array("y", np.ones((1, 1)))])
    responder = scene.engine.open[0][2]
    responder.send(part, final=False)
    late = scene.ask(1.0)
    responder.send(part)
    assert [caller.got for caller in callers] == [[1.0, 1.0]] * 2
    assert late.got == []
    assert scene.engine.asked == 2
    scene.ask(1.0)
    assert scene.engine.asked == 3


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    """Kept answers take no more than allowed; those not used for longest are forgotten."""
    scene = Scene(max_bytes=16 * 1032)
    for value in range(16):
        scene.ask(float(value))
        scene.engine.answer()
    scene.ask(0.0)
    scene.ask(99.0)
    scene.engine.answer()
    asked = scene.engine.asked
    assert scene.ask(0.0).got == [0.0]
    assert scene.ask(1.0).got == []
    assert scene.engine.asked == asked + 1
    held = [s.value for s in scene.meter.gauges() if s.name == "salver_cache_bytes"]
    assert held == [16 * 1032]


def test_another_version_is_another_answer() -> None:
    """A deploy of other bytes forgets what the old ones answered, also what was on its way."""
    scene = Scene()
    scene.ask(1.0)
    scene.ask(2.0)
    scene.engine.answer()
    scene.cache.apply(plan(digest="b" * 64))
    scene.engine.answer()
    assert scene.ask(1.0).got == []
    assert scene.ask(2.0).got == []
    assert [s.value for s in scene.meter.gauges()] == [0]


class Hall:
    """Audience whose seats are callers."""

    def seated(self, cohort: Cohort) -> None:
        """Need not know."""

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """No cohort stays whole here."""
        raise AssertionError

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Let a caller stand for itself."""
        caller: Caller = cohort.seats[index]
        caller.context = context
        return caller


def cohort_of(values: Sequence[float]) -> Cohort:
    """Return a cohort that asks for each of these values."""
    request = InferenceRequest("e", [Tensor.from_array("x", np.zeros((1, 1)))])
    form_of(request)
    request.inputs = []
    context = RequestContext("", ANONYMOUS, 0, 1000, variant="e:1")
    count = len(values)
    return Cohort(
        request,
        context,
        Hall(),
        [Caller(value, 1000) for value in values],
        ["0" * 40] * count,
        [None] * count,
        [np.float64(value).tobytes() for value in values],
    )


def test_members_of_a_cohort_hit_by_themselves() -> None:
    """Those whose answer is known are answered, equal ones run once, the others go on."""
    scene = Scene()
    scene.ask(1.0)
    scene.engine.answer()
    cohort = cohort_of([1.0, 2.0, 1.0, 2.0, 4.0])
    scene.cache.many([cohort])
    assert [caller.got for caller in cohort.seats] == [[3.0], [], [3.0], [], []]
    assert scene.engine.asked == 3
    scene.engine.answer()
    scene.engine.answer()
    assert [caller.got for caller in cohort.seats] == [[3.0], [6.0], [3.0], [6.0], [12.0]]


def test_cohorts_of_other_endpoints_stay_whole() -> None:
    """Where nothing is kept, nothing is looked at."""
    scene = Scene(cache=False)
    cohort = cohort_of([1.0, 1.0])
    scene.cache.many([cohort])
    assert scene.engine.whole == [cohort]
    assert not cohort.is_apart


def leave(callers: Sequence[Caller], number: int) -> list[Caller]:
    """Let one of the callers leave who still waits; returns who did."""
    waiting = [caller for caller in callers if not caller.got]
    if not waiting:
        return []
    caller = waiting[number % len(waiting)]
    caller.context.cancel()
    return [caller]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 2), st.integers(1, 9)),
            st.tuples(st.sampled_from(["answer", "fail", "late", "leave"]), st.integers(0, 9)),
        ),
        max_size=40,
    )
)
def test_every_caller_ends_once(steps: Sequence[tuple[Any, ...]]) -> None:
    """In any order of asking, answering, failing and leaving, with the cache or without it."""
    for cache in (True, False):
        scene, callers, left = Scene(cache=cache), list[Caller](), list[Caller]()
        for what, number, *rest in steps:
            if what == "ask":
                callers.append(scene.ask(float(number), rest[0]))
            elif what == "leave":
                left += leave(callers, number)
            else:
                scene.engine.end(what, number)
        while scene.engine.open:
            scene.engine.answer()
        for caller in callers:
            if caller in left:
                assert caller.got == []
            else:
                (got,) = caller.got
                assert got in (3 * caller.value, "model_failed", "deadline_exceeded")


def test_whose_run_it_was_says_which_worker_had_it() -> None:
    """The first caller's exchange has the worker, so that one that fails can be left out."""
    scene = Scene()
    first, second = scene.ask(2.0), scene.ask(2.0)
    scene.engine.open[0][1].worker = "shared-0"
    scene.engine.fail(ModelFailed("no"))
    assert (first.context.worker, second.context.worker) == ("shared-0", "")
    assert (first.context.joined, second.context.joined) == (False, True)
    third = scene.ask(2.0)
    scene.engine.open[0][1].worker = "shared-1"
    scene.engine.answer()
    assert third.context.worker == "shared-1"


def test_who_goes_on_after_a_deadline_names_no_worker_yet() -> None:
    """It is the exchange of who ran out of time that names the worker, whoever came first."""
    scene = Scene()
    hurried, patient, between = (scene.ask(2.0, time) for time in (1000, 3000, 2000))
    for worker in ("shared-0", "shared-1"):
        scene.engine.open[0][1].worker = worker
        scene.engine.fail(DeadlineExceeded("late"))
    named = [caller.context.worker for caller in (hurried, patient, between)]
    assert named == ["shared-0", "", "shared-1"]


def test_a_caller_that_leaves_at_a_part_costs_nobody_theirs() -> None:
    """The next one gets that part as well."""

    class Leaver(Caller):
        """Leaves when it is given something."""

        def send(self, response: InferenceResponse, *, final: bool = True) -> None:
            """Take a part and go."""
            super().send(response, final=final)
            self.context.cancel()

    scene = Scene()
    leaver = Leaver(2.0, 1000)
    leaver.context.idempotent = True
    inputs = [Tensor.from_array("x", np.array([[2.0]], "<f8"))]
    scene.cache(InferenceRequest("e", inputs), leaver.context, leaver)
    stays = scene.ask(2.0)
    responder = scene.engine.open[0][2]
    for value, final in ((1.0, False), (2.0, True)):
        part = InferenceResponse([Tensor.from_array("y", np.array([value]))])
        responder.send(part, final=final)
    assert (leaver.got, stays.got) == ([1.0], [1.0, 2.0])
