"""A thousand damaged files of each format: refused at push, or harmless in a worker.

Each file is tried as a push tries it, in a process that may die; what survives that is loaded in
a second process, which stands for the worker and must not die, whatever rows it is asked.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models, torch_models

ROOT = Path(__file__).parents[2]
SEEDS, SEEDS_INSIDE = 1000, 1000
TIME_LIMIT_S = 600

FORMATS: dict[str, tuple[str, Callable[[], Path], str]] = {
    "onnx": ("onnx", models.onnx_breast_cancer, "breast_cancer"),
    "xgboost-json": ("xgboost", lambda: models.xgboost_iris("json"), "iris"),
    "xgboost-ubj": ("xgboost", lambda: models.xgboost_iris("ubj"), "iris"),
    "lightgbm": ("lightgbm", models.lightgbm_wine, "wine"),
    "sklearn": ("sklearn", models.skops_iris, "iris"),
    "torch-script": ("torch", torch_models.iris_script, "iris"),
    "torch-exported": ("torch", torch_models.iris_exported, "iris"),
}
ARCHIVES = ("torch-script", "sklearn")
TOLD_NO_INPUTS = ("sklearn", "torch-script")


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_never_kill_a_worker(name: str, tmp_path: Path) -> None:
    """Whatever a push accepts, a worker survives."""
    assert tried(name, tmp_path)["refused"] > 0


@pytest.mark.parametrize("name", ARCHIVES)
def test_damage_inside_an_archive_never_kills_a_worker(name: str, tmp_path: Path) -> None:
    """So it does where the archive's checksums fit the damage."""
    counts = tried(name, tmp_path, inside=True)
    assert counts["refused"] > 0
    assert counts["survived"] > 0


def tried(name: str, folder: Path, *, inside: bool = False) -> dict[str, int]:
    """Try damaged files and return what became of them; none killed a worker."""
    seeds = SEEDS_INSIDE if inside else SEEDS
    runtime, make, data = FORMATS[name]
    rows = folder / "rows.npy"
    np.save(rows, models.rows(data))
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.runtimes.mutation_trial", runtime, str(make()), str(rows),
            str(seeds), "1" if name in TOLD_NO_INPUTS else "0", "1" if inside else "0",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        timeout=TIME_LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    counts: dict[str, Any] = json.loads(done.stdout)
    print(name, counts)
    assert counts["killed"] == []
    assert counts["refused"] + counts["crashed_at_push"] + counts["survived"] == seeds
    return counts
