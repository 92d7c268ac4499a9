"""Files made to do harm are refused at the push, and what is served meanwhile does not notice."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import models
from tests.artifact.test_validate import (
    BOMBS,
    external_model,
    lightgbm_change,
    set_item,
    skops_with,
    tree_change,
)
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server

OUTSIDE = 100_000_000


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server that has something to lose."""
    folder = tmp_path_factory.mktemp("serving")
    with Server(folder / "home") as running:
        running.deploy_scaled(folder)
        yield running


def write(path: Path, data: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(data)
    return path


def external(folder: Path) -> Path:
    """Make a folder whose graph takes its weights from beside the folder."""
    artifact = folder / "artifact"
    artifact.mkdir()
    write(folder / "x", b"\0" * 8)
    write(artifact / "model.onnx", external_model("../x"))
    return artifact


def linked(folder: Path, link: Callable[[Path, Path], None]) -> Path:
    """Make a folder whose model is a link to a sound model elsewhere."""
    artifact = folder / "artifact"
    artifact.mkdir()
    target = write(folder / "target.onnx", models.onnx_identity("FP32").read_bytes())
    link(target, artifact / "model.onnx")
    return artifact


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "xgboost child index": (
        lambda folder: write(
            folder / "model.json", tree_change(set_item("left_children", 0, OUTSIDE))
        ),
        "child index",
    ),
    "lightgbm child index": (
        lambda folder: write(folder / "model.txt", lightgbm_change("left_child", str(OUTSIDE))),
        "child index",
    ),
    "onnx weights outside": (external, "outside the folder"),
    "skops bomb": (
        lambda folder: write(folder / "model.skops", skops_with(**BOMBS["zip bomb"][0])),
        "bomb",
    ),
    "symbolic link": (lambda folder: linked(folder, os.symlink), "symbolic link"),
    "hard link": (lambda folder: linked(folder, os.link), "hard link"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_serving_goes_on(
    serving: Server, name: str, tmp_path: Path
) -> None:
    """Each push ends with 1 and one coded line, stores nothing, and disturbs no request."""
    make, cause = HOSTILE[name]
    path = make(tmp_path)
    with Load(serving.port, "scaled", connections=8) as load:
        done = serving.salver("push", str(path), "--name", "hostile")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert cause in done.stderr.decode()
    assert done.stderr.endswith(b"[invalid_artifact]\n")
    assert [model["name"] for model in serving.json("get", "models")] == ["scaled"]
    assert_unharmed(load)
