"""What a worker process takes of its machine: real processes, real limits."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from salver.core.errors import MemoryLimitExceeded, ModelFailed, ResourceUnavailable
from salver.core.hosting import Limits
from salver.engine.worker import limits
from salver.engine.worker.limits import OwnLimits, explained, see_one_gpu

HERE = sorted(os.sched_getaffinity(0))
HOLDER = """
import os, sys, threading
from pathlib import Path
from salver.core.hosting import Limits
from salver.engine.worker.limits import OwnLimits
waiting = threading.Event()
there = threading.Thread(target=waiting.wait, daemon=True)
there.start()
OwnLimits(Path(sys.argv[1]), sys.argv[2]).start(Limits(sys.argv[3]))
cpus = {frozenset(os.sched_getaffinity(t)) for t in (0, there.native_id)}
print(*(",".join(map(str, sorted(each))) for each in cpus), flush=True)
sys.stdin.read()
"""
BACKGROUND = """
import os, threading
from pathlib import Path
from salver.engine.worker.limits import step_back
waiting = threading.Event()
there = threading.Thread(target=waiting.wait, daemon=True)
there.start()
step_back()
later = threading.Thread(target=waiting.wait, daemon=True)
later.start()
policies = {os.sched_getscheduler(t) for t in (0, there.native_id, later.native_id)}
group = Path("/proc/self/autogroup")
words = group.read_text().split() if group.exists() else []
print(policies == {os.SCHED_IDLE}, *words[-1:])
"""
MEMORY = """
import sys
from pathlib import Path
import numpy as np
from salver.core.errors import ModelFailed
from salver.core.hosting import Limits
from salver.engine.worker.limits import OwnLimits, explained
OwnLimits(Path("."), "w").start(Limits(memory_bytes=300_000_000))
np.ones(50_000_000, np.uint8)
try:
    np.ones(400_000_000, np.uint8)
except MemoryError as error:
    failed = ModelFailed("the model failed")
    failed.__cause__ = error
    print(explained(failed).code, explained(ModelFailed("something else")).code)


class Mute(Exception):
    def __str__(self):
        return "code " + self.args[0]


failed = ModelFailed("cannot say")
failed.__cause__ = Mute(7)
print(explained(failed).code)
"""


class Holder:
    """A process that has taken CPUs and lives until it is told or killed."""

    def __init__(self, folder: Path, name: str, cpus: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), name, cpus],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.cpus = self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it without warning."""
        self.process.kill()
        self.process.communicate()


def test_so_many_cpus_are_those_that_fewest_have(tmp_path: Path) -> None:
    """Workers get unlike CPUs as long as there are some, all threads of theirs; a death frees."""
    holders = [Holder(tmp_path, f"w-{index}", "1") for index in range(len(HERE))]
    try:
        assert sorted(int(holder.cpus) for holder in holders) == HERE
        freed = holders[0].cpus
        holders[0].kill()
        holders.append(Holder(tmp_path, "w-new", "1"))
        assert holders[-1].cpus == freed
        holders.append(Holder(tmp_path, "w-all", f"{HERE[0]}-{HERE[0]},{HERE[-1]}"))
        assert holders[-1].cpus == ",".join(str(cpu) for cpu in sorted({HERE[0], HERE[-1]}))
    finally:
        for holder in holders:
            holder.kill()


LEAVER = """
import os, sys, time
from pathlib import Path
from salver.core.hosting import Limits
from salver.engine.worker.limits import OwnLimits
OwnLimits(Path(sys.argv[1]), "w").start(Limits("1"))
child = os.fork()
if child == 0:
    time.sleep(600)
print(child, flush=True)
os._exit(70)
"""


def test_what_a_dead_worker_left_running_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A helper that was forked holds the lock of its parent's CPUs; the next ones get theirs."""
    command = [sys.executable, "-c", LEAVER, str(tmp_path)]
    # Its output would be held open as well.
    with (tmp_path / "out").open("wb") as out:
        subprocess.run(command, stdout=out, check=False)
    helper = int((tmp_path / "out").read_text())
    try:
        holders = [Holder(tmp_path, "w", "1"), Holder(tmp_path, "other", "1")]
        os.kill(helper, 0)
        assert all(holder.cpus for holder in holders)
        for holder in holders:
            holder.kill()
    finally:
        os.kill(helper, signal.SIGKILL)


@pytest.mark.parametrize("cpus", ["4000", "4000-4001"])
def test_cpus_that_are_not_there_are_refused(tmp_path: Path, cpus: str) -> None:
    """The error names what there is, and nothing is taken."""
    with pytest.raises(ResourceUnavailable, match=f"workers may use {HERE[0]}"):
        OwnLimits(tmp_path, "w").start(Limits(cpus))
    assert sorted(os.sched_getaffinity(0)) == HERE
    assert list(tmp_path.iterdir()) == []


def test_memory_over_the_limit_is_told_as_such(tmp_path: Path) -> None:
    """What fits goes on to be given; other errors stay what they are, also mute ones."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    told = ["memory_limit_exceeded", "model_failed", "model_failed"]
    assert done.stdout.split() == told, done.stderr


def test_without_a_limit_memory_errors_are_the_models() -> None:
    """This process has none, so a failed allocation is what the model did."""
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
    failed = ModelFailed("the model failed")
    failed.__cause__ = MemoryError()
    assert explained(failed) is failed
    assert not isinstance(explained(failed), MemoryLimitExceeded)
    assert np.ones(1).nbytes


def test_of_several_gpus_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that an operator hid stay hidden, and are not counted."""
    monkeypatch.setattr(limits, "gpu_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    see_one_gpu(3)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    see_one_gpu(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-abc"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(ResourceUnavailable, match="2 that a worker may see"):
        see_one_gpu(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ResourceUnavailable, match="none"):
        see_one_gpu(0)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver there is none, whatever the environment says."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ResourceUnavailable, match="none on this machine"):
        see_one_gpu(0)


@pytest.mark.parametrize("leads", [True, False])
def test_who_steps_back_takes_all_its_threads_along(*, leads: bool) -> None:
    """Those that were there and those to come; others of a session that it does not lead stay."""
    done = subprocess.run(
        [sys.executable, "-c", BACKGROUND],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=leads,
    )
    stepped, _, nice = done.stdout.strip().partition(" ")
    assert stepped == "True", done.stderr
    if nice:
        assert nice == ("10" if leads else own_nice())


def own_nice() -> str:
    """Return the weight of this process's session, nothing where it has none of its own."""
    return "".join(Path("/proc/self/autogroup").read_text().split()[-1:])
