"""Models that are code and answer in chunks."""

import threading
from pathlib import Path

import numpy as np
import pytest

from salver.core.clock import ManualClock
from salver.core.errors import InvalidTensor, LoadFailed, ModelFailed, Overloaded, SalverError
from salver.runtimes.base import Batch
from salver.runtimes.python_stream import PythonStreamRuntime
from tests.runtimes.code_models import SIGNATURE, TRUSTED, loaded_stream, write

COUNT = """
import numpy as np

class Model:
    def preprocess(self, inputs):
        return int(inputs["x"][0, 0])
    def predict_stream(self, count):
        try:
            for index in range(count):
                yield index
        finally:
            self.closed = True
    def postprocess(self, index):
        return {"y": np.array([float(index)])}
"""


class Collector:
    """Keeps what a stream delivers; hangs up after so many chunks, or holds the stream up."""

    def __init__(self, wanted: int = 1000, gate: threading.Event | None = None) -> None:
        self.chunks: list[float] = []
        self.error: SalverError | None = None
        self.ended = threading.Event()
        self._wanted = wanted
        self._gate = gate

    def chunk(self, outputs: Batch) -> bool:
        """Take one."""
        if self._gate is not None:
            assert self._gate.wait(30)
        self.chunks.append(float(outputs["y"][0]))
        return len(self.chunks) < self._wanted

    def finish(self) -> None:
        """Note the end."""
        self.ended.set()

    def fail(self, error: SalverError) -> None:
        """Note the end and its cause."""
        self.error = error
        self.ended.set()

    def waited(self) -> "Collector":
        """Return this when the stream has ended."""
        assert self.ended.wait(30)
        return self


def number(value: float) -> Batch:
    """Return one input."""
    return {"x": np.array([[float(value)]])}


GROWING = """
import numpy as np

class Model:
    def predict_stream(self, inputs):
        total = np.zeros((1, 4096), np.float32)
        for _ in range(6):
            total += 1
            yield {"y": total}
"""


class Keeper(Collector):
    """Keeps the chunks themselves, as a sink does whose receiver is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Batch] = []

    def chunk(self, outputs: Batch) -> bool:
        """Take one."""
        self.kept.append(outputs)
        return True


def test_a_chunk_outlives_the_next(tmp_path: Path) -> None:
    """A generator may yield one array again and again; what was yielded stays what it was."""
    runtime = loaded_stream(tmp_path, GROWING)
    runtime.submit(number(6), sink := Keeper())
    sink.waited()
    found = [set(chunk["y"].ravel().tolist()) for chunk in sink.kept]
    assert found == [{1.0}, {2.0}, {3.0}, {4.0}, {5.0}, {6.0}]
    runtime.unload()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_chunks_come_in_order(tmp_path: Path, kind: str) -> None:
    """A generator and an async generator deliver every chunk, then the end."""
    source = COUNT.replace("def predict_stream", f"{kind} predict_stream")
    runtime = loaded_stream(tmp_path, source)
    sink = Collector()
    runtime.submit(number(5), sink)
    assert (sink.waited().chunks, sink.error) == ([0.0, 1.0, 2.0, 3.0, 4.0], None)
    runtime.unload()


def test_a_receiver_that_leaves_ends_the_generator(tmp_path: Path) -> None:
    """No more chunks are computed, and the generator's finally runs."""
    runtime = loaded_stream(tmp_path, COUNT)
    sink = Collector(wanted=2)
    runtime.submit(number(1_000_000_000), sink)
    assert sink.waited().chunks == [0.0, 1.0]
    assert runtime._code._model.closed
    runtime.unload()


def test_cancelling_ends_a_stream(tmp_path: Path) -> None:
    """The call that submit returned ends it at the next chunk."""
    runtime, gate = loaded_stream(tmp_path, COUNT), threading.Event()
    sink = Collector(gate=gate)
    cancel = runtime.submit(number(1_000_000_000), sink)
    cancel()
    gate.set()
    assert len(sink.waited().chunks) <= 1


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("raise ValueError('dry')", "model.py line 11: ValueError: dry"),
        ("raise SystemExit(2)", "sys.exit(2) was called"),
        ("yield None", "model.py line 15: TypeError: float()"),
    ],
)
def test_an_error_ends_one_stream(tmp_path: Path, line: str, cause: str) -> None:
    """What came before it arrives, the error names its line, and the next stream is answered."""
    source = COUNT.replace("yield index", f"yield index\n                {line}")
    runtime = loaded_stream(tmp_path, source)
    sink = Collector()
    runtime.submit(number(3), sink)
    assert sink.waited().chunks == [0.0]
    assert isinstance(sink.error, ModelFailed)
    assert cause in sink.error.message
    sink = Collector()
    runtime.submit(number(0), sink)
    assert sink.waited().error is None


def test_the_number_of_streams_is_bounded(tmp_path: Path) -> None:
    """One more than may run is refused at once; when they ended there is room again."""
    runtime, gate = loaded_stream(tmp_path, COUNT), threading.Event()
    sinks = [Collector(gate=gate) for _ in range(16)]
    for sink in sinks:
        runtime.submit(number(2), sink)
    with pytest.raises(Overloaded):
        runtime.submit(number(2), Collector())
    gate.set()
    assert all(sink.waited().chunks == [0.0, 1.0] for sink in sinks)
    runtime.submit(number(1), last := Collector())
    assert last.waited().chunks == [0.0]


def test_wrong_inputs_and_wrong_classes_are_refused(tmp_path: Path) -> None:
    """Inputs are checked before a thread is taken; a class without a generator does not load."""
    runtime = loaded_stream(tmp_path / "a", COUNT)
    with pytest.raises(InvalidTensor):
        runtime.submit({"x": np.array([[1]])}, Collector())
    both = COUNT + "    def predict(self, inputs): return inputs\n"
    with pytest.raises(LoadFailed, match="keep one"):
        loaded_stream(tmp_path / "b", both)
    runtime = loaded_stream(
        tmp_path / "c", "class Model:\n    def predict_stream(self, inputs): return [inputs]"
    )
    runtime.submit(number(1), sink := Collector())
    error = sink.waited().error
    assert error is not None
    assert "returned a list; it must yield" in error.message


def test_streams_that_are_lost_end_the_process(tmp_path: Path) -> None:
    """When no place is left but for streams that nobody waits for, the process is given up."""
    clock, given_up, gate = ManualClock(), [0], threading.Event()

    def give_up() -> None:
        given_up[0] += 1

    runtime = PythonStreamRuntime(clock, give_up)
    runtime.load(write(tmp_path, COUNT), SIGNATURE, TRUSTED)
    sinks = [Collector(gate=gate) for _ in range(16)]
    cancels = [runtime.submit(number(2), sink) for sink in sinks]

    def one_more() -> int:
        with pytest.raises(Overloaded):
            runtime.submit(number(2), Collector())
        return given_up[0]

    for cancel in cancels[1:]:
        cancel()
    clock.advance(60)
    assert one_more() == 0
    cancels[0]()
    assert one_more() == 0
    clock.advance(60)
    assert one_more() == 1
    gate.set()
    for sink in sinks:
        sink.waited()
    runtime.unload()
