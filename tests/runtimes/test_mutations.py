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

import numpy as np
import pytest

from tests import models

ROOT = Path(__file__).parents[2]
SEEDS = 1000
TIME_LIMIT_S = 600

FORMATS: dict[str, tuple[str, Callable[[], Path], str]] = {
    "onnx": ("onnx", models.onnx_breast_cancer, "breast_cancer"),
    "xgboost-json": ("xgboost", lambda: models.xgboost_iris("json"), "iris"),
    "xgboost-ubj": ("xgboost", lambda: models.xgboost_iris("ubj"), "iris"),
    "lightgbm": ("lightgbm", models.lightgbm_wine, "wine"),
    "sklearn": ("sklearn", models.skops_iris, "iris"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_never_kill_a_worker(name: str, tmp_path: Path) -> None:
    """Whatever a push accepts, a worker survives."""
    runtime, make, data = FORMATS[name]
    rows = tmp_path / "rows.npy"
    np.save(rows, models.rows(data))
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.runtimes.mutation_trial", runtime, str(make()), str(rows),
            str(SEEDS), "1" if runtime == "sklearn" else "0",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        timeout=TIME_LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    counts = json.loads(done.stdout)
    print(name, counts)
    assert counts["killed"] == []
    assert counts["refused"] + counts["crashed_at_push"] + counts["survived"] == SEEDS
    assert counts["refused"] > 0
