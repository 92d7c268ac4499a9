"""Cohorts: what travels together, and that it comes apart again."""

import asyncio

import msgspec
import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from salver.core.cohort import Cohort
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.errors import SalverError, WireError
from salver.core.request import InferenceRequest, InferenceResponse, form_of
from salver.core.signature import Signature
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.engine.client.cohort import (
    cohorts,
    goes_together,
    infer_cohort,
    infer_many,
    joint_response,
)
from salver.engine.client.pending import Pending, VariantRoute
from salver.engine.worker.job import many_jobs
from salver.wire.framing import LARGE_BYTES
from salver.wire.messages import ChunkMany, InferMany, TensorHeader, VariantPlan
from tests.engine.client.test_held import Room
from tests.engine.fleet import VARIANT, Fleet, client_of, finish, fleet
from tests.engine.worker.test_batch import NoReply

PLAN = VariantPlan("m:1", "primary", "m", "1", "0" * 64, "test", 10_000, 1, Signature((), ()), ())
SECOND_NS = 1_000_000_000


class Nobody:
    """Responder that is never answered."""

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Drop."""

    def fail(self, error: SalverError) -> None:
        """Drop."""


def pending(
    number: int,
    *tensors: Tensor,
    parameters: dict[str, object] | None = None,
    outputs: tuple[str, ...] | None = None,
    priority: int = 0,
) -> Pending:
    """Return a request to m:1 with an id."""
    context = RequestContext(f"r{number}", ANONYMOUS, 0, (number + 1) * SECOND_NS)
    context.variant, context.priority = "m:1", priority
    request = InferenceRequest("m", list(tensors), None, outputs, parameters)
    form_of(request)
    return Pending(request, context, Nobody(), VariantRoute(PLAN), id=number)


def row(value: float, width: int = 2, name: str = "x") -> Tensor:
    """Return one row of equal numbers."""
    return Tensor.from_array(name, np.full((1, width), value, np.float32))


def test_what_is_special_goes_alone() -> None:
    """Parameters, text and large tensors keep a request out of every cohort."""
    text = Tensor.from_array("x", np.array([[b"a"]], object))
    assert goes_together(pending(1, row(1)))
    assert not goes_together(pending(1, row(1), parameters={"stream": True}))
    assert not goes_together(pending(1, text))
    assert not goes_together(pending(1, row(1), text))
    assert not goes_together(pending(1, row(1, LARGE_BYTES)))


def test_only_the_values_may_differ() -> None:
    """Another shape, name, datatype, priority or wanted output is another cohort."""
    whole = Tensor.from_array("x", np.full((1, 2), 1, np.int32))
    turn = [
        pending(1, row(1)),
        pending(2, row(2, 3)),
        pending(3, row(3)),
        pending(4, row(4, name="z")),
        pending(5, row(5), outputs=("y",)),
        pending(6, row(6), priority=1),
        pending(7, whole),
        pending(8, row(8)),
    ]
    groups = [[one.id for one in group] for group in cohorts(turn)]
    assert groups == [[1, 3, 8], [2], [4], [5], [6], [7]]


def test_a_cohort_is_bounded() -> None:
    """Neither many members nor heavy ones make a message that is received the slow way."""
    light = list(cohorts([pending(n, row(1)) for n in range(600)]))
    assert [len(group) for group in light] == [256, 256, 88]
    heavy = list(cohorts([pending(n, row(1, 4096)) for n in range(7)]))
    assert [len(group) for group in heavy] == [3, 3, 1]


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20),
    ends_s=st.lists(st.integers(0, 3), min_size=20, max_size=20),
    terse=st.booleans(),
)
def test_the_worker_gets_each_request_as_it_was(
    values: list[float], ends_s: list[int], *, terse: bool
) -> None:
    """Ids, deadlines and bytes of every member arrive with it, also with two inputs each.

    They do in the long form, which workers of version 2 understand, and in the terse one.
    """
    group = [pending(n, row(v), row(-v, 3, "w")) for n, v in enumerate(values)]
    for one, end_s in zip(group, ends_s, strict=False):
        one.context.deadline_ns = end_s * SECOND_NS
    now_ns = SECOND_NS // 2
    message, buffers = infer_many(group, now_ns, terse=terse)
    if not terse:
        assert len(message.remaining_us) == len(message.request_ids) == len(group)
    payload = b"".join(bytes(buffer) for buffer in buffers)
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=InferMany)
    many = many_jobs(NoReply(), message, payload, 7, batches=True)
    assert len(many) == 1
    jobs = [one for job in many for one in job.each()]
    for job, one in zip(jobs, group, strict=True):
        own = b"".join(bytes(tensor.buffer) for tensor in one.request.inputs)
        assert (job.id, bytes(job.payload), job.rows) == (one.id, own, 1)
        assert job.deadline_ns == 7 + max(0, one.context.deadline_ns - now_ns)
    assert many[0].deadline_ns == min(job.deadline_ns for job in jobs)


@pytest.mark.parametrize("deadlines_ns", [[], [7_000_000, 9_000_000, 8_000_000], [9_000_000] * 3])
def test_a_whole_cohort_says_the_same_in_both_forms(deadlines_ns: list[int]) -> None:
    """What a worker makes of a cohort does not depend on the form of the message."""
    template = InferenceRequest("m", [row(1)])
    form_of(template)
    context = RequestContext("", ANONYMOUS, 0, min(deadlines_ns, default=5_000_000))
    context.variant = "m:1"
    payloads = [bytes(row(n).buffer) for n in range(3)]
    cohort = Cohort(template, context, Room(), [None] * 3, ["a", "b", "c"], [None] * 3, payloads)
    cohort.deadlines_ns = deadlines_ns
    jobs = []
    for terse in (False, True):
        message, payload = infer_cohort(cohort, (4, 5, 6), 1_000_000, terse=terse)
        assert len(message.request_ids) == (0 if terse else 3)
        assert len(message.remaining_us) == (1 if terse and not deadlines_ns else 3)
        jobs.append(many_jobs(NoReply(), message, payload, 0, batches=True))
    long, short = [[(j.ids, j.deadline_ns, j.payload) for j in made[0].each()] for made in jobs]
    assert long == short
    ends_ns = deadlines_ns or [5_000_000] * 3
    assert [deadline_ns for _, deadline_ns, _ in long] == [ns - 1_000_000 for ns in ends_ns]


def test_broken_messages_are_refused() -> None:
    """What does not add up raises instead of shifting bytes between callers."""
    group = [pending(n, row(n)) for n in range(3)]
    message, buffers = infer_many(group, 0, terse=False)
    payload = b"".join(bytes(buffer) for buffer in buffers)
    for broken, size in (
        (message, len(payload) - 4),
        (msgspec.structs.replace(message, ids=(), remaining_us=(), request_ids=()), 0),
        (msgspec.structs.replace(message, remaining_us=(1, 2)), len(payload)),
        (msgspec.structs.replace(message, remaining_us=()), len(payload)),
        (msgspec.structs.replace(message, request_ids=("a",)), len(payload)),
    ):
        with pytest.raises(WireError):
            many_jobs(NoReply(), broken, bytes(size), 0, batches=True)
    header = TensorHeader("y", "FP32", (1, 2), 8)
    good = ChunkMany((1, 2), (header,), (0, 0), Timing())
    assert len(joint_response(good, bytes(16)).timings) == 2
    short = ChunkMany((1, 2), (header,), (9,), Timing())
    assert [timing.queue_ns for timing in joint_response(short, bytes(16)).timings] == [9, 9]
    for bad, size in (
        (good, 15),
        (ChunkMany((1, 2), (header,), (), Timing()), 16),
        (ChunkMany((1, 2), (header,), (0, 0, 0), Timing()), 16),
        (ChunkMany((1, 2), (TensorHeader("y", "FP32", (), 8),), (0, 0), Timing()), 16),
        (ChunkMany((), (), (), Timing()), 0),
        (ChunkMany((1, 2), (TensorHeader("y", "FP99", (1, 2), 8),), (0, 0), Timing()), 16),
        (ChunkMany((1, 2), (TensorHeader("y", "BYTES", (1, 2), 8),), (0, 0), Timing()), 16),
        (ChunkMany((1, 2), (TensorHeader("y", "FP32", (1, 3), 8),), (0, 0), Timing()), 16),
        (ChunkMany((1, 2), (TensorHeader("y", "FP32", (1, -2), -8),), (0, 0), Timing()), 0),
        (
            ChunkMany((1, 2), (header, TensorHeader("z", "FP32", (2, 1), 8)), (0, 0), Timing()),
            32,
        ),
    ):
        with pytest.raises(WireError):
            joint_response(bad, bytes(size))


class Together:
    """Responders that share a sink, and the sink."""

    def __init__(self) -> None:
        self.joint = self
        self.calls = 0
        self.values: list[float] = []
        self.over = asyncio.Event()

    def send_joint(self, responders: list["Together"], response: object) -> None:
        """Count the call, and answer each."""
        self.calls += 1
        for index in range(len(responders)):
            self.send(response.alone(index))  # type: ignore[attr-defined]

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Note the answer."""
        self.values.append(float(response.outputs[0].array()[0, 0]))
        if len(self.values) == 40:
            self.over.set()

    def fail(self, error: SalverError) -> None:
        """Nothing fails here."""
        raise AssertionError(error.message)


def test_a_shared_sink_is_called_once_for_many() -> None:
    """Answers that come together are handed over together, and every one is there."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            warm = callers.ask(0.0)
            await finish([warm])
            sink = Together()
            for number in range(40):
                tensor = Tensor.from_array("x", np.array([[float(number)]]))
                now_ns = SECOND_NS * 3600 * 24 * 365 * 100
                context = RequestContext("0" * 40, ANONYMOUS, 0, now_ns)
                context.variant = VARIANT
                callers.client(InferenceRequest(VARIANT, [tensor]), context, sink)
            await asyncio.wait_for(sink.over.wait(), 30)
            assert sorted(sink.values) == [3.0 * n + 1 for n in range(40)]
            assert 1 <= sink.calls <= 4

    with fleet() as running:
        uvloop.run(run(running))
