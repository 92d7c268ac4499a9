"""Models that are code: what they may do, and what is said when they do it wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest

from salver.core.errors import (
    CodeRefused,
    InvalidArtifact,
    LoadFailed,
    ModelFailed,
    RequirementsUnmet,
)
from salver.core.signature import Signature, TensorSpec
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.python import PythonRuntime
from tests.runtimes.code_models import DOUBLE, SIGNATURE, TRUSTED, body, loaded, write

NO_FILE = """
class Model:
    def load(self, path):
        open(path / "no")
    def predict(self, inputs):
        pass
"""
INHERITED = """
class Base:
    def predict_stream(self, inputs):
        yield {}
class Model(Base):
    def predict(self, inputs):
        pass
"""
HELPED = """
import helper
class Model:
    def predict(self, inputs):
        return helper.f(inputs)
"""
ROWS = {"x": np.array([[1.0], [2.0]])}


def test_code_runs_only_when_it_was_trusted(tmp_path: Path) -> None:
    """Without the trust that a push recorded, not a line of the file is executed."""
    folder = write(tmp_path, "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    with pytest.raises(CodeRefused, match="--trust-code"):
        PythonRuntime().load(folder, SIGNATURE, RuntimeOptions())
    assert not (folder / "ran").exists()


def test_steps_get_what_the_step_before_returned(tmp_path: Path) -> None:
    """preprocess gets the inputs, and may return anything; postprocess gives the outputs."""
    runtime = loaded(
        tmp_path,
        """
        class Model:
            def load(self, path):
                self.factor = 3.0 if (path / "model.py").is_file() else 0.0
            def preprocess(self, inputs):
                return inputs["x"]
            def predict(self, array):
                return array * self.factor
            def postprocess(self, array):
                return {"y": array, "half": array / 2}
        """,
    )
    answer = runtime.run(ROWS, None)
    assert answer["y"].tolist() == [[3.0], [6.0]]
    assert answer["half"].tolist() == [[1.5], [3.0]]
    assert list(runtime.run(ROWS, ("half",))) == ["half"]


def test_inputs_cannot_be_written_into(tmp_path: Path) -> None:
    """Code that tries it is told what to do instead, and its inputs stay what they were."""
    rows = {"x": np.array([[1.0], [2.0]])}
    for number, line in enumerate(("x *= 2", "x[:] = 2", "x.sort()", "x.setflags(write=1)")):
        runtime = loaded(tmp_path / str(number), body("x = inputs['x']", line, "return {'y': x}"))
        rows["x"].flags.writeable = number != 3
        with pytest.raises(ModelFailed, match=r"model.py line 6: .*copy what is written into"):
            runtime.run(rows, None)
    assert rows["x"].tolist() == [[1.0], [2.0]]


REUSING = """
import numpy as np
class Model:
    def load(self, path):
        self.out = {"y": np.zeros((1, 4096))}
    def predict(self, inputs):
        self.out["y"][:] = inputs["x"][0, 0]
        return self.out
"""


def test_an_answer_outlives_the_next_call(tmp_path: Path) -> None:
    """Code may use one array for all its answers: an earlier one stays what it was."""
    runtime = loaded(tmp_path, REUSING)
    answers = [runtime.run({"x": np.array([[value]])}, None) for value in (1.0, 2.0)]
    assert [set(answer["y"].ravel().tolist()) for answer in answers] == [{1.0}, {2.0}]


def test_an_answer_is_no_part_of_its_inputs(tmp_path: Path) -> None:
    """What code returns as it came shares no memory with what came."""
    runtime = loaded(tmp_path, body("return {'y': inputs['x'].T}"))
    answer = runtime.run(ROWS, None)
    assert answer["y"].tolist() == [[1.0, 2.0]]
    assert not np.shares_memory(answer["y"], ROWS["x"])


def test_awaitable_methods_are_awaited(tmp_path: Path) -> None:
    """load and predict may be coroutines, and share one event loop."""
    runtime = loaded(
        tmp_path,
        """
        import asyncio
        class Model:
            async def load(self, path):
                self.loop = asyncio.get_running_loop()
            async def predict(self, inputs):
                assert self.loop is asyncio.get_running_loop()
                await asyncio.sleep(0)
                return {"y": 2 * inputs["x"]}
        """,
    )
    assert runtime.run(ROWS, None)["y"].tolist() == [[2.0], [4.0]]
    assert runtime.run(ROWS, None)["y"].tolist() == [[2.0], [4.0]]
    runtime.unload()


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["x = 1", "raise ValueError('too blue')"], "model.py line 6: ValueError: too blue"),
        (["return {'y': inputs['z']}"], "model.py line 5: KeyError: 'z'"),
        (["import sys", "sys.exit(3)"], r"model.py line 6: sys.exit\(3\) was called"),
        (["raise KeyboardInterrupt"], "model.py line 5: KeyboardInterrupt"),
        (["return self.predict(inputs)"], "model.py line 5: RecursionError"),
        (["return np.ones((1 << 60,))"], "model.py line 5: "),
        (["return [1, 2]"], "predict returned a list; it must return a dict"),
        (["return None"], "predict returned None"),
        (["return {}"], "empty dict"),
        (["yield 1"], "predict_stream is the method that yields"),
        (["return {3: inputs['x']}"], "named an output 3, which is an int, no text"),
        (["return {'y': [1.0]}"], "returned a list for output 'y'; it must be a numpy array"),
        (["return {'y': np.float64(1)}"], "returned a numpy.float64 for output 'y'"),
        (["return {'y': np.zeros(2, 'complex128')}"], "'y': numpy dtype complex128"),
        (["return {'y': np.array([b'a', None], object)}"], "returned None inside output 'y'"),
        (["return {'y': np.array([3, 'a'], object)}"], "returned an int inside output 'y'"),
        (
            [
                "class Strange(Exception):",
                "    def __str__(self): raise SystemExit",
                "raise Strange",
            ],
            "Strange: its message cannot be read",
        ),
    ],
)
def test_what_code_does_wrong_is_named(tmp_path: Path, lines: list[str], cause: str) -> None:
    """The error says what came and where, without a traceback, and the next call is answered."""
    runtime = loaded(tmp_path, body(*lines))
    with pytest.raises(ModelFailed, match=cause) as caught:
        runtime.run(ROWS, None)
    assert "\n" not in caught.value.message
    assert "Traceback" not in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_one_call_that_fails_does_not_spoil_the_next(tmp_path: Path) -> None:
    """An exit inside awaited code leaves the event loop as it was."""
    runtime = loaded(
        tmp_path,
        """
        import sys
        class Model:
            async def predict(self, inputs):
                if inputs["x"][0, 0] < 0:
                    sys.exit(1)
                return {"y": inputs["x"]}
        """,
    )
    for _ in range(3):
        with pytest.raises(ModelFailed, match=r"sys\.exit"):
            runtime.run({"x": np.array([[-1.0]])}, None)
        assert runtime.run(ROWS, None)["y"].tolist() == [[1.0], [2.0]]
    runtime.unload()


def test_outputs_are_those_the_version_declares(tmp_path: Path) -> None:
    """A declared output that is missing or of another datatype is named."""
    declared = Signature(SIGNATURE.inputs, (TensorSpec("y", "FP32", (-1, 1)),))
    runtime = loaded(tmp_path / "a", DOUBLE, declared)
    with pytest.raises(ModelFailed, match=r"returned FP64 for output 'y'.*FP32.*astype"):
        runtime.run(ROWS, None)
    runtime = loaded(tmp_path / "b", body("return {'z': inputs['x']}"), declared)
    with pytest.raises(ModelFailed, match="no output 'y'"):
        runtime.run(ROWS, None)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("x = 1", "defines no class Model"),
        ("class Model: pass", "neither predict nor predict_stream"),
        ("class Model:\n    def __init__(self, size): pass", "TypeError"),
        ("import sys\nsys.exit(0)", "model.py line 2: sys.exit"),
        ("import nonsense_package", "model.py line 1: ModuleNotFoundError"),
        ("def broken(:", "model.py line 1: SyntaxError"),
        (NO_FILE, "model.py line 4: FileNotFoundError"),
        (INHERITED, "without predict"),
    ],
)
def test_code_that_does_not_load(tmp_path: Path, source: str, cause: str) -> None:
    """What is wrong is named with its line, and nothing of it stays behind."""
    before = set(sys.modules), list(sys.path)
    with pytest.raises(LoadFailed, match=cause):
        loaded(tmp_path, source)
    left = [name for name in set(sys.modules) - before[0] if name.startswith("salver_model")]
    assert (left, sys.path) == ([], before[1])


def test_two_models_keep_to_their_own_modules(tmp_path: Path) -> None:
    """After one is unloaded, another with a module of the same name gets its own."""
    for factor in (2, 3):
        folder = write(tmp_path / str(factor), HELPED)
        (folder / "helper.py").write_text(f"def f(inputs): return {{'y': {factor} * inputs['x']}}")
        runtime = PythonRuntime()
        runtime.load(folder, SIGNATURE, TRUSTED)
        assert runtime.run(ROWS, None)["y"].tolist() == [[factor * 1.0], [factor * 2.0]]
        runtime.unload()


def test_requirements_that_are_met_and_not(tmp_path: Path) -> None:
    """Each unmet line is named with what is installed, what is asked for, and the fix."""
    met = "# ours\nnumpy>=1.20  # for arrays\n\nscikit_learn\nnonsense; python_version < '3'\n"
    folder = write(tmp_path, DOUBLE, requirements__txt=met)
    PythonRuntime().load(folder, SIGNATURE, TRUSTED)
    (folder / "requirements.txt").write_text("numpy>=1.20\nnumpy<1.5\nno-such-thing==3\n")
    with pytest.raises(RequirementsUnmet) as caught:
        PythonRuntime().load(folder, SIGNATURE, TRUSTED)
    told = caught.value.message
    assert f"line 2: numpy {np.__version__} is installed, <1.5 is asked for" in told
    assert "line 3: no-such-thing is not installed (asked for: no-such-thing==3)" in told
    assert "line 1" not in told
    assert "Nothing is installed by itself" in told


def test_requirements_of_extras_are_looked_at(tmp_path: Path) -> None:
    """An extra asks for what it adds."""
    folder = write(tmp_path, DOUBLE, requirements__txt="tritonclient[cuda]\ntritonclient[http]\n")
    with pytest.raises(RequirementsUnmet, match=r"line 1: .*cuda.* is not installed") as caught:
        PythonRuntime().load(folder, SIGNATURE, TRUSTED)
    assert "line 2" not in caught.value.message


@pytest.mark.parametrize(
    "line", ["-r more.txt", "--no-binary :all:", "./folder", "a @ https://example.org/a.whl"]
)
def test_requirements_are_names_and_versions_only(tmp_path: Path, line: str) -> None:
    """Options, paths and addresses are refused with their line."""
    folder = write(tmp_path, DOUBLE, requirements__txt=f"numpy\n{line}\n")
    with pytest.raises(InvalidArtifact, match=r"requirements.txt line 2"):
        PythonRuntime().load(folder, SIGNATURE, TRUSTED)


def test_a_signature_beside_the_code(tmp_path: Path) -> None:
    """signature.json tells the inputs; what is no signature is refused."""
    text = '{"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 1]}], "outputs": []}'
    folder = write(tmp_path, DOUBLE, signature__json=text)
    runtime = PythonRuntime()
    runtime.load(folder, None, TRUSTED)
    assert runtime.signature() == SIGNATURE
    for wrong in ("[]", '{"inputs": [], "outputs": []}', text.replace("FP64", "double")):
        (folder / "signature.json").write_text(wrong)
        with pytest.raises(InvalidArtifact, match=r"signature\.json"):
            PythonRuntime().load(folder, None, TRUSTED)
