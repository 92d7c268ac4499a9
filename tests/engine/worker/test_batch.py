"""Joining and cutting batches, without a process around it."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.core.datatypes import DTYPES
from salver.core.errors import InvalidTensor, ModelFailed, SalverError
from salver.core.tensor import AnyArray, Tensor
from salver.core.timing import Timing
from salver.engine.client.cohort import joint_response
from salver.engine.worker.batch import Answer, assemble, disassemble, take_batch
from salver.engine.worker.job import Job, one_job
from salver.wire.framing import Buffer
from salver.wire.messages import ChunkMany, Infer, Message, TensorHeader


class NoReply:
    """Reply that goes nowhere."""

    is_blocked = False

    def __init__(self, *, joins: bool = False) -> None:
        self.joins = joins

    def announce(self, slot: int, ids: tuple[int, ...]) -> bool:
        """Nobody needs to know."""
        return True

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
    queue = deque([job(wide), job(narrow), job(wide), job(wide), job(wide, outputs=("y",))])
    kept = list(queue)
    assert take_batch(queue, 5) == [kept[0], kept[2]]
    assert list(queue) == [kept[1], kept[3], kept[4]]
    assert take_batch(queue, 5) == [kept[1]]
    assert take_batch(queue, 5) == [kept[3]]
    assert take_batch(queue, 5) == [kept[4]]


def test_more_rows_than_a_batch_run_alone() -> None:
    """One request larger than the batch limit is not cut and not joined."""
    queue = deque([job(np.zeros((10, 1))), job(np.zeros((1, 1)))])
    first = queue[0]
    assert take_batch(queue, 4) == [first]


def test_scalars_and_uneven_inputs_run_alone() -> None:
    """Without a common first axis nothing is joined."""
    queue = deque([job(np.float64(1.0) * np.ones(())), job(np.zeros(()))])
    assert len(take_batch(queue, 8)) == 1
    queue = deque([job(np.zeros((1, 1)), np.zeros((2, 1)))] * 2)
    assert len(take_batch(queue, 8)) == 1


def test_surplus_bytes_do_not_shift_into_others() -> None:
    """A job whose bytes and headers differ is refused, whatever the sum says."""
    long, short = job(np.zeros((1, 2))), job(np.zeros((1, 2)))
    long.payload, short.payload = bytes(24), bytes(8)
    with pytest.raises(InvalidTensor):
        assemble([long, short])
    with pytest.raises(InvalidTensor):
        assemble([short])


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)])
def test_wrong_rows_are_the_models_fault(shape: tuple[int, ...]) -> None:
    """An output without one row per row in is refused, with the way out."""
    jobs = [job(np.zeros((1, 1))), job(np.zeros((1, 1)))]
    with pytest.raises(ModelFailed, match="max-batch-size 1"):
        disassemble({"y": np.zeros(shape)}, jobs)
