"""Golden examples run before a version answers, and what fails there is told."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from salver.artifact.golden import Golden, write_golden
from salver.core.clock import SystemClock
from salver.core.errors import DigestMismatch, GoldenMismatch, InvalidSettings, LoadFailed
from salver.core.settings import EngineSettings
from salver.core.tensor import Tensor
from salver.engine.worker.warmup import warm_up
from salver.runtimes.base import Batch
from salver.wire.messages import Load
from tests.engine.runtimes import REFUSED, SIGNATURE, Affine

CLOCK = SystemClock()


class Counting(Affine):
    """Counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Run once more."""
        self.runs += 1
        return super().run(batch, outputs)


def stored(blobs: Path, *values: float, answer: float | None = None) -> Load:
    """Store golden examples of these values and return a load that names them."""
    examples = [
        Golden([number("x", value)], [number("y", 3 * value + 1 if answer is None else answer)])
        for value in values
    ]
    data = write_golden(examples)
    digest = hashlib.sha256(data).hexdigest()
    path = blobs / digest[:2] / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Load("affine:1", "d", "affine", (), "local", SIGNATURE, golden=digest)


def number(name: str, value: float) -> Tensor:
    """Return one number."""
    return Tensor.from_array(name, np.array([[value]]))


def test_every_example_runs(tmp_path: Path) -> None:
    """All examples of a version run, and answers are not compared unless that is asked for."""
    runtime = Counting()
    warm_up(EngineSettings(), CLOCK)(runtime, stored(tmp_path, 1.0, 2.0, answer=0.0), tmp_path)
    assert runtime.runs == 2


def test_no_example_begins_when_the_time_is_over(tmp_path: Path) -> None:
    """One example runs at least, and none begins after the time for them."""
    runtime = Counting()
    settings = EngineSettings(warm_up_s=0.0)
    warm_up(settings, CLOCK)(runtime, stored(tmp_path, 1.0, 2.0, 3.0), tmp_path)
    assert runtime.runs == 1


def test_off_runs_nothing(tmp_path: Path) -> None:
    """Without warm-up, or without examples, nothing runs."""
    runtime = Counting()
    load = stored(tmp_path, 1.0)
    warm_up(EngineSettings(warm_up="off"), CLOCK)(runtime, load, tmp_path)
    warm_up(EngineSettings(), CLOCK)(runtime, msgspec.structs.replace(load, golden=""), tmp_path)
    assert runtime.runs == 0
    with pytest.raises(InvalidSettings, match="run, check or off"):
        warm_up(EngineSettings(warm_up="maybe"), CLOCK)


def test_an_example_that_fails_is_a_failed_load(tmp_path: Path) -> None:
    """The error names version, example and cause."""
    with pytest.raises(LoadFailed, match="affine:1 fails at its golden example 2"):
        warm_up(EngineSettings(), CLOCK)(Affine(), stored(tmp_path, 1.0, REFUSED), tmp_path)


def test_answers_are_compared_if_asked_for(tmp_path: Path) -> None:
    """With check an answer that is not the pushed one is refused, one within tolerance is not."""
    check = warm_up(EngineSettings(warm_up="check"), CLOCK)
    check(Affine(), stored(tmp_path, 1.0, 2.0), tmp_path)
    with pytest.raises(GoldenMismatch, match="golden example 1"):
        check(Affine(), stored(tmp_path, 1.0, answer=5.0), tmp_path)


def test_stored_examples_are_verified(tmp_path: Path) -> None:
    """Examples that are not what was pushed, or gone, are refused before they run."""
    load = stored(tmp_path, 1.0)
    path = tmp_path / load.golden[:2] / load.golden
    path.write_bytes(path.read_bytes() + b"\n")
    for word in ("are not those that were pushed", "cannot be read"):
        with pytest.raises(DigestMismatch, match=word):
            warm_up(EngineSettings(), CLOCK)(Affine(), load, tmp_path)
        path.unlink(missing_ok=True)
