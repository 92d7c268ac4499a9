"""An acknowledged write survives power loss at any moment; the harness notices when it does not."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from salver.core.errors import ModelNotFound
from tests.registry.kill_trial import lost
from tests.registry.powerloss.disk import Disk, Operation, read_record, restore

ROOT = Path(__file__).parents[2]
STEPS = 6
CHANCES = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that records."""
    library = tmp_path_factory.mktemp("recorder") / "record.so"
    source = Path(__file__).parent / "powerloss" / "record.c"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return library


def record(recorder: Path, folder: Path, synchronous: str = "") -> tuple[str, list[Operation]]:
    """Run the writer below a folder and return the root and what it did."""
    root, log = folder / "root", folder / "log"
    root.mkdir()
    environment = {
        **os.environ,
        "LD_PRELOAD": str(recorder),
        "RECORD_ROOT": str(root),
        "RECORD_LOG": str(log),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    arguments = [sys.executable, "-m", "tests.registry.powerloss.writer", str(root), str(STEPS)]
    done = subprocess.run(
        [*arguments, synchronous], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return str(root), read_record(log)


def losses(root: str, operations: list[Operation], folder: Path, every: int) -> list[str]:
    """Cut the power after every so many operations and return what was lost."""
    problems: list[str] = []
    disk, rng = Disk(root), random.Random(7)
    told = ""
    for number, operation in enumerate(operations):
        if operation.path.endswith("/acknowledged"):
            told += operation.data.decode()
            continue
        disk.apply(operation)
        facts: list[dict[str, Any]] = [json.loads(line) for line in told.splitlines()]
        if number % every or not facts:
            continue
        for luck in CHANCES:
            target = folder / "after"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            restore(disk.after_power_loss(rng, luck), root, target)
            try:
                found = lost(target, facts)
            except ModelNotFound:
                found = ["everything"]
            problems += [f"after {number} of {len(operations)}: {problem}" for problem in found]
    return problems


def test_no_acknowledged_write_is_lost(recorder: Path, tmp_path: Path) -> None:
    """Whatever unsynced data and names are dropped, acknowledged versions and aliases are there."""
    root, operations = record(recorder, tmp_path)
    assert {"C", "W", "S", "R", "U"} <= {operation.kind for operation in operations}
    assert losses(root, operations, tmp_path, every=2) == []


def test_the_harness_notices_missing_syncs(recorder: Path, tmp_path: Path) -> None:
    """With the database's syncs switched off, the same harness finds losses."""
    root, operations = record(recorder, tmp_path, synchronous="OFF")
    try:
        problems = losses(root, operations, tmp_path, every=5)
    except Exception as error:  # a database that was torn apart may fail in any way
        problems = [str(error)]
    assert problems
