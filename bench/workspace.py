"""Folders of one run, and the models every server is measured with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environments import BENCH, checked, environment, site_packages


@dataclass(frozen=True, slots=True)
class Case:
    """One OIP request body and ONNX Runtime's own answer, flat, by output name."""

    body: bytes
    outputs: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Workspace:
    """`models` is kept between runs; `run` is emptied at the start of each."""

    models: Path
    run: Path

    def cases(self) -> list[Case]:
        """The recorded requests of the tabular model."""
        entries: list[dict[str, Any]] = json.loads((self.models / "cases.json").read_text())
        return [Case(entry["body"].encode(), entry["outputs"]) for entry in entries]

    @property
    def real(self) -> Path:
        """The folder of real models and data; made where it is missing."""
        folder = self.models / "real"
        if not (folder / "image.json").is_file():
            python = environment("models") / "bin" / "python"
            packages = site_packages(environment("real-models"))
            checked([str(python), str(BENCH / "models" / "real.py"), str(packages), str(folder)])
        return folder

    @property
    def many(self) -> Path:
        """The folder of a hundred small models; made where it is missing."""
        folder = self.models / "many"
        if not (folder / "many.json").is_file():
            print("training a hundred models, once; this takes minutes", flush=True)
            python = environment("models") / "bin" / "python"
            checked([str(python), str(BENCH / "models" / "many.py"), str(folder)])
        return folder


def make_workspace() -> Workspace:
    """Empty the run folder and make the models where they are missing."""
    work = BENCH / ".work"
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    models = work / "models"
    if not (models / "identity-example.json").is_file():
        python = environment("models") / "bin" / "python"
        checked([str(python), str(BENCH / "models" / "make.py"), str(models)])
    return Workspace(models, run)
