"""Tries damaged copies of one model file; run as a process of its own, which forks for each try.

Arguments: runtime, model file, rows (.npy), number of seeds, whether the input is FP64, and
whether a file inside the archive is damaged instead of the archive. Prints one JSON object with
the counts and the seeds whose file a push accepted and a worker died of.
"""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from salver.artifact.validate.base import validate
from salver.core.errors import SalverError
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import BatchRuntime, RuntimeOptions
from salver.runtimes.table import create_batch, prepare_batch
from tests.artifact.mutations import mutate, mutate_member

TIME_LIMIT_S = 20
ACCEPTED, REFUSED = 0, 3


def in_child(work: Callable[[], None]) -> int:
    """Run work in a forked process; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(TIME_LIMIT_S)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = REFUSED
        try:
            work()
            code = ACCEPTED
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def ask(runtime: BatchRuntime, rows: AnyArray) -> None:
    """Predict with the rows as the model wants them."""
    signature = runtime.signature()
    assert signature is not None
    spec = signature.inputs[0]
    dtype = np.float64 if spec.datatype == "FP64" else np.float32
    runtime.run({spec.name: np.ascontiguousarray(rows, dtype)}, None)


def main(
    runtime_name: str,
    model: Path,
    rows: AnyArray,
    seeds: int,
    signature: Signature | None,
    damage: Callable[[bytes, int], bytes],
) -> None:
    """Try every seed and print the counts."""
    counts = {"refused": 0, "crashed_at_push": 0, "survived": 0}
    killed: list[int] = []
    original = model.read_bytes()
    prepare_batch(runtime_name)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def load() -> BatchRuntime:
            runtime = create_batch(runtime_name)
            runtime.load(folder, signature, RuntimeOptions())
            return runtime

        def push() -> None:
            validate(runtime_name, folder)
            ask(load(), rows[:3])

        def work() -> None:
            runtime = load()
            for part in (rows[:1], rows, rows * 1e6, rows * np.nan, -rows):
                try:
                    ask(runtime, part)
                except SalverError:
                    continue

        for seed in range(seeds):
            (folder / model.name).write_bytes(damage(original, seed))
            outcome = in_child(push)
            if outcome != ACCEPTED:
                counts["refused" if outcome > 0 else "crashed_at_push"] += 1
                continue
            counts["survived"] += 1
            if in_child(work) < 0:
                killed.append(seed)
    print(json.dumps({**counts, "killed": killed}))


if __name__ == "__main__":
    known = Signature((TensorSpec("input", "FP64", (-1, 4)),), ()) if sys.argv[5] == "1" else None
    inside = mutate_member if sys.argv[6] == "1" else mutate
    main(sys.argv[1], Path(sys.argv[2]), np.load(sys.argv[3]), int(sys.argv[4]), known, inside)
