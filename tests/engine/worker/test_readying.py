"""Texts are tokenized while they wait, and run with those of about their length."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.clock import ManualClock
from salver.core.settings import EngineSettings
from salver.core.signature import Signature, TensorSpec
from salver.core.steps import Steps
from salver.core.tensor import encode_bytes
from salver.engine.worker.host import BatchHost
from salver.engine.worker.job import Job
from salver.engine.worker.loading import Loading
from salver.observe.meter import Meter
from salver.runtimes.base import Batch, BatchRuntime, RuntimeOptions
from salver.runtimes.stepped import SteppedRuntime
from salver.wire.messages import BatchPolicy, Infer, Load, TensorHeader
from tests import models
from tests.engine.worker.sequences import Desk
from tests.engine.worker.test_policies import play

OUTER = Signature((TensorSpec("text", "BYTES", (-1, 1)),), (TensorSpec("sum", "INT64", (-1,)),))
INNER = Signature(
    (TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1))), OUTER.outputs
)
STEP = {"step": "tokenize", "column": "text", "outputs": {"ids": "ids", "mask": "mask"}}
LINE = "the cat sat on the mat and looked at the rain that fell on the roof of the old house"


class Sums:
    """Adds up the tokens that the mask lets through; remembers rows, length and real tokens."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int]] = []

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load nothing."""

    def signature(self) -> Signature | None:
        """Return what it takes."""
        return INNER

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Compute."""
        ids, mask = batch["ids"], batch["mask"]
        self.batches.append((*ids.shape, int(mask.sum())))
        return {"sum": (ids * mask).sum(axis=1)}

    def unload(self) -> None:
        """Release nothing."""


async def until(there: Callable[[], bool]) -> None:
    """Look in each turn of the loop, since nothing tells of it."""
    async with asyncio.timeout(30):
        while not there():  # noqa: ASYNC110
            await asyncio.sleep(0)


class Scene:
    """A version that is ready, with the tokenizer of a published model before it."""

    def __init__(self, folder: Path, policy: BatchPolicy, *, ahead: bool = True) -> None:
        self.inner, self.desk = Sums(), Desk(joins=True)
        runtime = SteppedRuntime(self.inner, Steps(before=(STEP,)))
        runtime.load(folder, OUTER, RuntimeOptions())
        load = Load("m:1", "0" * 64, "test", (), "local", OUTER, policy)
        clock = ManualClock()
        loading: Loading[BatchRuntime] = Loading(
            load, lambda _: runtime, clock, Meter(), lambda: None, 60.0
        )
        loading.state, loading.runtime = "ready", runtime
        self.host = BatchHost(
            loading, EngineSettings(runner="inline", tokenize_ahead=ahead), clock, Meter()
        )

    def ask(self, request_id: int, *texts: bytes) -> Job:
        """Ask with a row for each text."""
        payload = encode_bytes([*texts])
        header = TensorHeader("text", "BYTES", (len(texts), 1), len(payload))
        infer = Infer(request_id, "m:1", (header,), 60_000_000, "")
        return self.host.accept(self.desk, infer, payload)

    async def finish(self) -> dict[int, list[list[int]] | str]:
        """Let it come to rest and return what each request was answered, once."""
        await until(lambda: self.host.idle)
        self.host.close()
        assert all(len(answers) == 1 for answers in self.desk.got.values())
        return {
            request_id: one if isinstance(one, str) else [array.tolist() for array in one]
            for request_id, (one,) in self.desk.got.items()
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder with the tokenizer."""
    return models.minilm(tmp_path_factory.mktemp("ready") / "minilm")


def text(words: int) -> bytes:
    """Return so many words."""
    return " ".join((LINE.split() * (words // 19 + 1))[:words]).encode()


lengths = st.lists(st.integers(0, 60), min_size=1, max_size=3)
policies = st.builds(
    BatchPolicy,
    st.sampled_from([1, 2, 8, 64]),
    max_batch_tokens=st.sampled_from([0, 64]),
    batching=st.sampled_from(["fixed", "adaptive"]),
    max_padding=st.sampled_from([0.0, 0.05, 0.9]),
)


@settings(deadline=None, max_examples=25)
@given(requests=st.lists(lengths, min_size=1, max_size=24), policy=policies, broken=st.booleans())
def test_the_answer_is_that_of_the_plain_way(
    folder: Path, requests: Sequence[Sequence[int]], policy: BatchPolicy, *, broken: bool
) -> None:
    """Ahead or with the batch, each request has the same answer, and a broken one its own error."""

    async def scene() -> None:
        found = []
        for ahead in (True, False):
            one = Scene(folder, policy, ahead=ahead)
            for number, row in enumerate(requests):
                one.ask(number, *[text(words) for words in row])
            if broken:
                one.ask(-1, b"\xff\xfe")
            found.append(await one.finish())
        assert found[0] == found[1]
        assert len(found[0]) == len(requests) + broken
        assert not broken or found[0][-1] == "invalid_tensor"

    play(scene())


def test_texts_run_with_those_of_their_length(folder: Path) -> None:
    """However they are mixed when they come, little of a batch is filling; else much of it is."""
    policy = BatchPolicy(64, max_padding=0.05)

    async def filling(*, ahead: bool) -> float:
        scene = Scene(folder, policy, ahead=ahead)
        for number in range(48):
            scene.ask(number, text((4, 30, 60)[number % 3]))
        await scene.finish()
        assert max(rows for rows, _, _ in scene.inner.batches) >= 8
        slots = sum(rows * length for rows, length, _ in scene.inner.batches)
        return 1 - sum(real for _, _, real in scene.inner.batches) / slots

    async def scene() -> None:
        assert await filling(ahead=True) <= 0.05
        assert await filling(ahead=False) > 0.3

    play(scene())


def test_gateways_know_before_a_text_is_tokenized(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that ends the process while it is tokenized is one that its gateway was told of."""
    told: list[list[int]] = []

    async def scene() -> None:
        one = Scene(folder, BatchPolicy(64))
        runtime = one.host.loading.runtime
        assert isinstance(runtime, SteppedRuntime)
        assert runtime.rest is not None
        prepare = runtime.rest.prepare

        def watched(batch: Batch) -> Batch:
            told.append([*one.desk.order])
            return prepare(batch)

        monkeypatch.setattr(runtime.rest, "prepare", watched)
        for number in range(3):
            one.ask(number, text(number + 1))
        await one.finish()

    play(scene())
    assert told
    assert all({0, 1, 2} <= set(ids) for ids in told)


def test_what_is_being_tokenized_counts_as_waiting(folder: Path) -> None:
    """No more requests are taken than may wait, wherever they do; who left gets nothing."""

    async def scene() -> None:
        one = Scene(folder, BatchPolicy(8, max_queue=4))
        jobs = [one.ask(number, text(3)) for number in range(9)]
        jobs[1].cancelled = True
        got = await one.finish()
        assert {number for number, answer in got.items() if answer == "overloaded"} == {
            4,
            5,
            6,
            7,
            8,
        }
        assert sorted(number for number, answer in got.items() if answer != "overloaded") == [
            0,
            2,
            3,
        ]

    play(scene())


def test_a_policy_that_ends_batching_loses_nobody(folder: Path) -> None:
    """Requests that were tokenized for a batch are answered when none is made any more."""

    async def scene() -> None:
        one = Scene(folder, BatchPolicy(8))
        for number in range(6):
            one.ask(number, text(number))
        # The moment between steps and run.
        await until(lambda: one.host._queue.requests > 0)
        load = one.host.load
        one.host.update(Load("m:1", load.digest, "test", (), "local", OUTER, BatchPolicy(1)))
        for number in range(6, 9):
            one.ask(number, text(number))
        got = await one.finish()
        assert sorted(got) == [*range(9)]
        assert all(isinstance(answer, list) for answer in got.values())

    play(scene())


def test_tokens_are_those_of_the_text_alone(folder: Path) -> None:
    """What is filled up later is what the step itself would have filled up."""
    runtime = SteppedRuntime(Sums(), Steps(before=(STEP,)))
    runtime.load(folder, OUTER, RuntimeOptions())
    rest = runtime.rest
    assert rest is not None
    assert [item.name for item in rest.sequences.inputs] == ["ids", "mask"]
    short, long = np.array([[text(3)]], object), np.array([[text(9)]], object)
    made, alone = rest.prepare({"text": long}), rest.prepare({"text": short})
    joint = rest.prepare({"text": np.concatenate([short, long])})
    for name in ("ids", "mask"):
        width = alone[name].shape[1]
        assert (joint[name][0, :width] == alone[name][0]).all()
        assert (joint[name][0, width:] == 0).all()
        assert (joint[name][1] == made[name][0]).all()
