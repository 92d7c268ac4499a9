"""Private copies of models: each process has its own, and those of the dead go."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from salver.wire.copies import Copies, clear, forget

WORKER = "shared-0"
HOLDER = """
import sys
from pathlib import Path
from salver.wire.copies import Copies
copies = Copies(Path(sys.argv[1]), "shared-0", sys.argv[2])
copies.claim()
(copies.folder / "one").mkdir(parents=True)
(copies.folder / "one" / "model.onnx").write_bytes(b"weights")
print("held", flush=True)
sys.stdin.readline()
copies.release()
"""


@contextlib.contextmanager
def holder(run: Path, process: str) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process of the worker that has copies, and ends in good order on a line of input."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run), process],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as held:
        assert held.stdout is not None
        try:
            assert held.stdout.readline() == b"held\n"
            yield held
        finally:
            held.kill()


def left(run: Path) -> set[str]:
    """Return what lies in the folders of workers."""
    return {path.name for path in run.glob("models/*/*")}


def test_only_copies_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    """Those of one that was killed go, also without a claim; those of a living one stay."""
    with holder(tmp_path, "lives") as living, holder(tmp_path, "dies") as dying:
        earlier = tmp_path / "models" / WORKER / "of-an-earlier-version" / "deep"
        earlier.mkdir(parents=True)
        assert left(tmp_path) == {
            "lives", "lives.lock", "dies", "dies.lock", "of-an-earlier-version",
        }  # fmt: skip
        dying.kill()
        dying.wait()
        forget(tmp_path, WORKER)
        assert left(tmp_path) == {"lives", "lives.lock"}
        assert (tmp_path / "models" / WORKER / "lives" / "one" / "model.onnx").exists()
        living.communicate(b"\n")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_process_removes_its_own_copies_only(tmp_path: Path) -> None:
    """One that ends leaves those of its successor alone."""
    with holder(tmp_path, "first") as first, holder(tmp_path, "second"):
        first.communicate(b"\n")
        assert left(tmp_path) == {"second", "second.lock"}


def test_copies_of_workers_that_nobody_knows_go(tmp_path: Path) -> None:
    """Clearing takes in all workers of the folder, and needs none to be there."""
    clear(tmp_path)
    for worker in ("shared-0", "dedicated-gone-1-0"):
        copies = Copies(tmp_path, worker, "gone")
        copies.folder.mkdir(parents=True)
        copies.folder.with_name("gone.lock").touch()
    with holder(tmp_path, "lives"):
        clear(tmp_path)
        assert left(tmp_path) == {"lives", "lives.lock"}
        assert [path.name for path in (tmp_path / "models").iterdir()] == [WORKER]


def test_claims_beside_those_who_clear(tmp_path: Path) -> None:
    """Whoever claims has its lock at its place, however often others clear meanwhile."""
    command = "import sys; from pathlib import Path; from salver.wire.copies import forget\n"
    command += "print(flush=True)\nwhile True: forget(Path(sys.argv[1]), 'shared-0')"
    with subprocess.Popen(
        [sys.executable, "-c", command, str(tmp_path)], stdout=subprocess.PIPE
    ) as clearing:
        try:
            assert clearing.stdout is not None
            clearing.stdout.readline()
            for number in range(2000):
                copies = Copies(tmp_path, WORKER, f"process-{number}")
                copies.claim()
                copies.folder.mkdir()
                assert copies.folder.with_name(f"process-{number}.lock").exists()
                copies.release()
        finally:
            clearing.kill()
