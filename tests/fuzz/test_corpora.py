"""Inputs that once went wrong do not again, and a fuzzer finds nothing in a short run."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
RUNS = {"http2": 1000, "headers": 5000, "grpc": 5000, "rest": 10_000}
CASES = [
    (name, path) for name, target in TARGETS.items() for path in sorted(target.corpus.iterdir())
]
HAS_ATHERIS = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.mark.parametrize(
    ("name", "path"), CASES, ids=[f"{name}-{path.name}" for name, path in CASES]
)
def test_the_corpus(name: str, path: Path) -> None:
    """Every input in a target's corpus passes all checks of the target."""
    TARGETS[name].load()(path.read_bytes())


@pytest.mark.skipif(not HAS_ATHERIS, reason="atheris has no wheels for this platform")
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    """Some thousand inputs, always from the same seed, break nothing."""
    done = fuzz(name, tmp_path, f"-runs={RUNS[name]}", "-seed=1")
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS[name]} runs" in done.stderr


@pytest.mark.skipif(not HAS_ATHERIS, reason="atheris has no wheels for this platform")
def test_what_goes_wrong_is_written_down(tmp_path: Path) -> None:
    """An input that raises ends the run and lies where it is told to lie."""
    done = fuzz("tests.fuzz.broken:examine", tmp_path, "-runs=100000", "-seed=1")
    assert done.returncode != 0
    (found,) = (tmp_path / "found").iterdir()
    assert b"!" in found.read_bytes()


def fuzz(name: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a target in a folder, which gets what is kept and what is found."""
    found = folder / "found"
    found.mkdir()
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, f"-artifact_prefix={found}/", *options],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
