"""Joining and cutting batches, without a process around it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.core.clock import SystemClock
from salver.core.datatypes import DTYPES
from salver.core.errors import InvalidTensor, ModelFailed, SalverError
from salver.core.signature import Signature
from salver.core.tensor import AnyArray, Tensor
from salver.core.timing import Timing
from salver.engine.client.cohort import joint_response
from salver.engine.worker.batch import Answer, assemble, disassemble
from salver.engine.worker.form import form_of
from salver.engine.worker.job import Job, many_jobs, one_job
from salver.engine.worker.lanes import LaneQueue
from salver.engine.worker.queue import JobQueue
from salver.engine.worker.run import Failure, execute
from salver.runtimes.base import Batch, RuntimeOptions
from salver.wire.framing import Buffer
from salver.wire.messages import ChunkMany, Infer, InferMany, Message, TensorHeader


class NoReply:
    """Reply that goes nowhere."""

    is_blocked = False
    is_terse = False

    def __init__(self, *, joins: bool = False) -> None:
        self.joins = joins

    def announce(self, slot: int, ids: tuple[int, ...]) -> bool:
        """Nobody needs to know."""
        return True

    def is_reading(self) -> bool:
        """Batches begin when the test says so."""
        return False

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        """Never happens."""

    def send(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Drop."""

    def queue(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Drop."""

    def flush(self) -> None:
        """Nothing to do."""

    def begin(self, job: Job) -> None:
        """Nothing to remember."""

    def fail(self, job: Job, error: SalverError) -> None:
        """Drop."""

    def forget(self, job: Job) -> None:
        """Nothing to forget."""


ALONE_REPLY = NoReply()


def job(
    *arrays: AnyArray, outputs: tuple[str, ...] | None = None, reply: NoReply = ALONE_REPLY
) -> Job:
    """Make a job of inputs a, b, and so on."""
    tensors = [Tensor.from_array(chr(97 + i), array) for i, array in enumerate(arrays)]
    headers = tuple(TensorHeader(t.name, t.datatype, t.shape, t.size_bytes) for t in tensors)
    payload = b"".join(bytes(tensor.buffer) for tensor in tensors)
    infer = Infer(1, "m:1", headers, 1000, "", outputs)
    return one_job(reply, infer, payload, 0, batches=True)


def arrays_of(answer: Answer) -> list[AnyArray]:
    """Read an answer back."""
    assert len(answer.jobs) == 1
    return [
        Tensor(h.name, h.datatype, h.shape, buffer).array()
        for h, buffer in zip(answer.headers, answer.buffers, strict=True)
    ]


@given(
    data=st.data(),
    rows=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    dtype=st.sampled_from([*DTYPES.values()]),
)
def test_a_batch_is_its_parts(
    data: st.DataObject, rows: list[int], dtype: np.dtype[np.generic]
) -> None:
    """What each job put in comes out as its own part, for every datatype, also for text."""
    parts = [data.draw(hnp.arrays(dtype, (count, 3))) for count in rows]
    texts = [
        np.array([[f"é{i}.{k}".encode()] for k in range(n)], object) for i, n in enumerate(rows)
    ]
    jobs = [job(part, text) for part, text in zip(parts, texts, strict=True)]
    batch = assemble(jobs)
    assert batch["a"].shape == (sum(rows), 3)
    answers = disassemble({"a": batch["a"], "b": batch["b"]}, jobs)
    for answer, part, text in zip(answers, parts, texts, strict=True):
        numbers, words = arrays_of(answer)
        assert numbers.tobytes() == part.tobytes()
        assert words.tolist() == text.tolist()


@given(
    data=st.data(),
    rows=st.lists(st.integers(1, 3), min_size=1, max_size=9),
    who=st.lists(st.integers(0, 2), min_size=9, max_size=9),
)
def test_joint_answers_are_the_single_ones(
    data: st.DataObject, rows: list[int], who: list[int]
) -> None:
    """Cut apart by the receiver, a joint answer gives each job what it would get alone.

    Only neighbours of one gateway that takes joint answers, with as many rows, are joined.
    """
    replies = [NoReply(joins=True), NoReply(joins=True), NoReply(joins=False)]
    parts = [data.draw(hnp.arrays(np.dtype("<f4"), (count, 2))) for count in rows]
    jobs = [job(p, reply=replies[who[i]]) for i, p in enumerate(parts)]
    batch = assemble(jobs)
    outputs = {"y": batch["a"], "z": batch["a"][:, :1].view("<i4")}
    given = iter(parts)
    answered: list[Job] = []
    for answer in disassemble(outputs, jobs):
        answered += answer.jobs
        same = {(id(one.reply), one.rows) for one in answer.jobs}
        assert len(same) == 1
        if len(answer.jobs) > 1:
            assert answer.jobs[0].reply.joins
        message = ChunkMany(
            tuple(range(len(answer.jobs))), answer.headers, (0,) * len(answer.jobs), Timing()
        )
        response = joint_response(message, b"".join([bytes(part) for part in answer.buffers]))
        for index in range(len(answer.jobs)):
            part = next(given)
            y, z = response.alone(index).outputs
            assert y.array().tobytes() == part.tobytes()
            assert z.array().tobytes() == part[:, 0].tobytes()
    assert answered == jobs


def test_text_is_never_joined() -> None:
    """Outputs whose elements have their own lengths are answered one by one."""
    reply = NoReply(joins=True)
    jobs = [job(np.zeros((1, 1)), reply=reply) for _ in range(3)]
    text = np.array([[b"a"], [b"bcd"], [b""]], object)
    assert [len(a.jobs) for a in disassemble({"t": text}, jobs)] == [1, 1, 1]


def test_a_large_joint_answer_is_sent_in_parts() -> None:
    """No message holds more than a megabyte of joint answers."""
    reply = NoReply(joins=True)
    jobs = [job(np.zeros((1, 1)), reply=reply) for _ in range(8)]
    answers = disassemble({"y": np.zeros((8, 50_000))}, jobs)
    assert [len(a.jobs) for a in answers] == [2, 2, 2, 2]


def test_only_what_fits_is_taken_together() -> None:
    """The oldest goes first with those alike, up to the rows; the others keep their order."""
    wide, narrow = np.zeros((2, 3)), np.zeros((1, 2))
    kept = [job(wide), job(narrow), job(wide), job(wide), job(wide, outputs=("y",))]
    queue = JobQueue(kept)
    assert queue.take(5) == [kept[0], kept[2]]
    assert queue.requests == 3
    assert queue.take(5) == [kept[1]]
    assert queue.take(5) == [kept[3]]
    assert queue.take(5) == [kept[4]]
    assert not queue
    assert queue.requests == 0


def test_the_urgent_go_first_over_all_lanes() -> None:
    """The lane whose first job is most urgent is next, of equally urgent ones the oldest."""
    queue, arrived = LaneQueue(), list[Job]()
    for number, (width, priority) in enumerate([(1, 10), (2, 10), (3, 1), (2, 5)]):
        one = job(np.zeros((1, width)))
        one.priority, one.arrival_ns = priority, number
        arrived.append(one)
        queue.append(one)
    assert [queue.take(1)[0] for _ in range(4)] == [arrived[n] for n in (2, 3, 0, 1)]
    assert not queue
    assert queue.requests == 0


def test_more_rows_than_a_batch_run_alone() -> None:
    """One request larger than the batch limit is not cut and not joined."""
    first = job(np.zeros((10, 1)))
    queue = JobQueue([first, job(np.zeros((1, 1)))])
    assert queue.take(4) == [first]


def test_scalars_and_uneven_inputs_run_alone() -> None:
    """Without a common first axis nothing is joined."""
    queue = JobQueue([job(np.float64(1.0) * np.ones(())), job(np.zeros(()))])
    assert len(queue.take(8)) == 1
    queue = JobQueue([job(np.zeros((1, 1)), np.zeros((2, 1)))] * 2)
    assert len(queue.take(8)) == 1


def several(
    *columns: AnyArray, first_id: int = 1, remaining_us: Sequence[int] = (), reply: NoReply
) -> list[Job]:
    """Make the jobs of a cohort; each column holds one row a member."""
    count = len(columns[0])
    parts = [[column[n : n + 1] for column in columns] for n in range(count)]
    headers = tuple(
        TensorHeader(chr(97 + i), "FP32", column[:1].shape, column[:1].nbytes)
        for i, column in enumerate(columns)
    )
    message = InferMany(
        tuple(range(first_id, first_id + count)),
        "m:1",
        headers,
        tuple(remaining_us or [1000] * count),
        ("",) * count,
    )
    payload = b"".join(part.tobytes() for member in parts for part in member)
    return many_jobs(reply, message, payload, 0, batches=True)


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    max_rows=st.integers(1, 12),
    joins=st.booleans(),
)
def test_cohorts_are_their_members(counts: list[int], max_rows: int, *, joins: bool) -> None:
    """However a queue of cohorts is cut into batches, each member gets its own rows, in order.

    No batch has more rows than allowed, none but the last one of a queue could have had more.
    """
    reply, number, values = NoReply(joins=joins), 1, dict[int, tuple[float, float]]()
    queue = JobQueue()
    for count in counts:
        x = np.arange(number, number + count, dtype="<f4")[:, None] * np.ones((1, 2), "<f4")
        y = -x[:, :1] * np.ones((1, 3), "<f4")
        for one in several(x, y, first_id=number, reply=reply):
            queue.append(one)
        values |= {number + n: (number + n, -float(number + n)) for n in range(count)}
        number += count
    answered: list[int] = []
    while queue:
        jobs = queue.take(max_rows)
        batch = assemble(jobs)
        assert len(batch["a"]) == min(max_rows, number - 1 - len(answered))
        for answer in disassemble({"y": batch["a"][:, 0], "z": batch["b"][:, :1]}, jobs):
            ids = [request_id for one in answer.jobs for request_id in one.ids]
            assert joins or len(ids) == 1
            first, second = (np.frombuffer(bytes(part), "<f4") for part in answer.buffers)
            assert [(a, b) for a, b in zip(first, second, strict=True)] == [values[n] for n in ids]
            answered += ids
    assert answered == list(values)
    assert queue.requests == 0


def test_members_keep_their_own_deadlines() -> None:
    """A cohort stays one job, late with the first of its members; a part has its own first."""
    x, reply = np.zeros((3, 2), "<f4"), NoReply()
    for remaining_us in ((6, 5, 7), (9,), (9, 9, 9)):
        (job,) = several(x, remaining_us=remaining_us, reply=reply)
        assert job.deadline_ns == min(remaining_us) * 1000
        times = remaining_us if len(remaining_us) == 3 else remaining_us * 3
        assert [one.deadline_ns for one in job.each()] == [us * 1000 for us in times]
        assert job.part(0, 1).deadline_ns == times[0] * 1000
        assert job.part(1, 3).deadline_ns == min(times[1:]) * 1000
        assert [one.deadline_ns for one in job.part(1, 3).each()] == [us * 1000 for us in times[1:]]


def test_one_member_leaves() -> None:
    """Who is gone is gone from its part only; a job is cancelled when all are gone."""
    (three,) = several(np.zeros((3, 2), "<f4"), reply=NoReply())
    three.cancel(2)
    assert not three.cancelled
    assert [one.cancelled for one in three.each()] == [False, True, False]
    assert three.part(1, 2).cancelled
    three.cancel(1)
    three.cancel(3)
    assert three.cancelled


def test_surplus_bytes_do_not_shift_into_others() -> None:
    """A job whose bytes and headers differ is refused, whatever the sum says."""
    long, short = job(np.zeros((1, 2))), job(np.zeros((1, 2)))
    long.payload, short.payload = bytes(24), bytes(8)
    with pytest.raises(InvalidTensor):
        assemble([long, short])
    with pytest.raises(InvalidTensor):
        assemble([short])


@pytest.mark.parametrize(
    ("header", "size_bytes"),
    [
        (TensorHeader("a", "FP32", (1, 2), 16), 16),
        (TensorHeader("a", "FP32", (1, 2), 4), 4),
        (TensorHeader("a", "FP32", (1, -2), 8), 8),
        (TensorHeader("a", "FP32", (-1, -2), 8), 8),
        (TensorHeader("a", "FP31", (1, 2), 8), 8),
        (TensorHeader("a", "BYTES", (1, 2), -8), 8),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_headers_that_contradict_themselves_are_refused(
    header: TensorHeader, size_bytes: int, *, together: bool
) -> None:
    """Bytes that no tensor of that datatype and shape has never reach a model."""
    good = TensorHeader("b", "FP32", (1, 2), 8)
    for headers in ((header,), (good, header)):
        size = size_bytes + 8 * (len(headers) - 1)
        infer = Infer(1, "m:1", headers, 1000, "")
        jobs = [one_job(ALONE_REPLY, infer, bytes(size), 0, batches=True)]
        if together and header.size_bytes > 0:
            many = InferMany((1, 2), "m:1", headers, (1000,), ())
            jobs = many_jobs(ALONE_REPLY, many, bytes(2 * size), 0, batches=True)
        with pytest.raises(InvalidTensor):
            assemble(jobs)


def test_forms_are_made_once_for_equal_headers() -> None:
    """Requests that differ in their values only share a form, unless their names are long."""
    usual, other = job(np.zeros((1, 2))), job(np.ones((1, 2)))
    assert usual.form is other.form
    assert job(np.zeros((1, 3))).form is not usual.form
    assert job(np.zeros((1, 2)), outputs=("y",)).form is not usual.form
    long = (TensorHeader("n" * 5000, "FP32", (1, 1), 4),)
    assert form_of(long, None) is not form_of(long, None)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)])
def test_wrong_rows_are_the_models_fault(shape: tuple[int, ...]) -> None:
    """An output without one row per row in is refused, with the way out."""
    jobs = [job(np.zeros((1, 1))), job(np.zeros((1, 1)))]
    with pytest.raises(ModelFailed, match="max-batch-size 1"):
        disassemble({"y": np.zeros(shape)}, jobs)


class InPlace:
    """Writes into its inputs, and refuses what is negative."""

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load nothing."""

    def signature(self) -> Signature | None:
        """Tell nothing."""
        return None

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Double what came, where it came."""
        x = batch["a"]
        if not x.flags.writeable:
            x.setflags(write=True)
        x *= 2
        if (x < 0).any():
            raise ValueError("no negatives")
        return {"y": x.copy()}

    def unload(self) -> None:
        """Release nothing."""


class Mute(Exception):
    """Cannot say what it is about."""

    def __str__(self) -> str:
        """Fail as the message of a model's own error may."""
        return "code " + self.args[0]  # type: ignore[no-any-return]


class Picky(InPlace):
    """Gives what is asked for, and refuses what is negative without being able to say so."""

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Return each output that was asked for."""
        if (batch["a"] < 0).any():
            raise Mute(7)
        return dict.fromkeys(outputs or ("y",), batch["a"])


def test_an_output_may_be_asked_for_twice() -> None:
    """It is given once, which is no fault of the model."""
    jobs = [job(np.ones((1, 1)), outputs=("y", "y")) for _ in range(2)]
    answers = execute(Picky(), jobs, SystemClock()).answers
    assert [type(answer) for answer in answers] == [Answer, Answer]


def test_an_error_that_cannot_speak_hurts_only_itself() -> None:
    """Everybody has an answer, and the bad one is told that the message cannot be read."""
    jobs = [job(np.ones((1, 1))), job(-np.ones((1, 1)))]
    good, bad = execute(Picky(), jobs, SystemClock()).answers
    assert isinstance(good, Answer)
    assert isinstance(bad, Failure)
    assert bad.error.code == "model_failed"
    assert "Mute: its message cannot be read" in bad.error.message


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_inputs_are_the_same_at_a_retry(kind: Callable[[Buffer], Buffer]) -> None:
    """Whatever memory a frame lies in, a model can write nothing into it before the retry."""
    values = np.array([[1.0], [3.0], [-1.0]], "<f4")
    (one,) = several(values, reply=NoReply(joins=True))
    one.payload = memoryview(bytearray(one.payload)) if kind is memoryview else kind(one.payload)
    answers = execute(InPlace(), [one], SystemClock()).answers
    assert all(isinstance(answer, Failure) for answer in answers)
    assert len(answers) == 3
    assert bytes(one.payload) == values.tobytes()
