"""Model files are refused for what is wrong with them, before any library sees them."""

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from salver.artifact.validate.base import validate
from salver.artifact.validate.ubjson import loads
from salver.core.errors import InvalidArtifact
from tests import models, torch_models
from tests.artifact.mutations import mutate

FORMATS: dict[str, tuple[str, Callable[[], Path]]] = {
    "onnx": ("onnx", models.onnx_breast_cancer),
    "xgboost-json": ("xgboost", lambda: models.xgboost_iris("json")),
    "xgboost-ubj": ("xgboost", lambda: models.xgboost_iris("ubj")),
    "lightgbm": ("lightgbm", models.lightgbm_wine),
    "sklearn": ("sklearn", models.skops_iris),
    "torch-script": ("torch", torch_models.iris_script),
    "torch-exported": ("torch", torch_models.iris_exported),
}


def put(folder: Path, name: str, data: bytes) -> Path:
    """Write the only file of an artifact folder and return the folder."""
    (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_sound_files_pass(name: str, tmp_path: Path) -> None:
    """What the libraries write is accepted."""
    runtime, make = FORMATS[name]
    validate(runtime, put(tmp_path, make().name, make().read_bytes()))


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_refused_or_harmless_never_a_fault(name: str, tmp_path: Path) -> None:
    """A thousand damaged copies raise InvalidArtifact or nothing at all."""
    runtime, make = FORMATS[name]
    data = make().read_bytes()
    refused = 0
    for seed in range(1000):
        put(tmp_path, make().name, mutate(data, seed))
        try:
            validate(runtime, tmp_path)
        except InvalidArtifact:
            refused += 1
    assert refused > 100


def tree_change(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return an XGBoost model whose first tree was tampered with."""
    document = json.loads(models.xgboost_iris("json").read_bytes())
    change(document["learner"]["gradient_booster"]["model"]["trees"][0])
    return json.dumps(document).encode()


def set_item(name: str, index: int, value: int) -> Callable[[dict[str, Any]], None]:
    """Return a change of one entry of one list."""

    def change(tree: dict[str, Any]) -> None:
        tree[name][index] = value

    return change


TREES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "child far outside": (set_item("left_children", 0, 100_000_000), "child index"),
    "negative child": (set_item("left_children", 0, -7), "child index"),
    "child is the root": (set_item("right_children", 0, 0), "child index"),
    "two parents": (set_item("right_children", 0, 1), "two parents"),
    "one child only": (set_item("left_children", 0, -1), "one child"),
    "unknown feature": (set_item("split_indices", 0, 4), "feature"),
    "shorter list": (lambda tree: tree["default_left"].pop(), "entries"),
    "node count": (lambda tree: tree["tree_param"].update(num_nodes="999"), "num_nodes"),
    "categorical without table": (set_item("split_type", 0, 1), "categor"),
}


@pytest.mark.parametrize("name", TREES)
def test_tampered_xgboost_trees_are_refused(name: str, tmp_path: Path) -> None:
    """Each way a tree can point astray is named."""
    change, message = TREES[name]
    with pytest.raises(InvalidArtifact, match=message):
        validate("xgboost", put(tmp_path, "model.json", tree_change(change)))


def lightgbm_change(field: str, value: str) -> bytes:
    """Return a LightGBM model with the first occurrence of a field replaced, sizes mended."""
    text = models.lightgbm_wine().read_text()
    start = text.index("\nTree=0\n") + 1
    head, trees = text[:start], text[start:]
    first = trees[: trees.index("Tree=1\n")]
    changed = re.sub(rf"(?m)^{field}=(\S+)", lambda m: f"{field}={value}", first, count=1)
    sizes = re.search(r"(?m)^tree_sizes=(.*)$", head)
    assert sizes is not None
    numbers = sizes.group(1).split()
    numbers[0] = str(int(numbers[0]) + len(changed) - len(first))
    head = head.replace(sizes.group(0), "tree_sizes=" + " ".join(numbers))
    return (head + changed + trees[len(first) :]).encode()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("left_child", "100000000", "child index"),
        ("left_child", "-1000", "leaf index"),
        ("left_child", "0", "child index"),
        ("split_feature", "13", "feature"),
        ("num_leaves", "1000", "entries"),
        ("decision_type", "99", "decision type"),
        ("decision_type", "1", "categorical|table"),
    ],
)
def test_tampered_lightgbm_trees_are_refused(
    field: str, value: str, message: str, tmp_path: Path
) -> None:
    """Each way a tree can point astray is named."""
    with pytest.raises(InvalidArtifact, match=message):
        validate("lightgbm", put(tmp_path, "model.txt", lightgbm_change(field, value)))


def test_lightgbm_needs_its_tree_sizes(tmp_path: Path) -> None:
    """A file without tree_sizes, with which tampering is not noticed, is refused."""
    text = re.sub(r"(?m)^tree_sizes=.*\n", "", models.lightgbm_wine().read_text())
    with pytest.raises(InvalidArtifact, match="tree_sizes"):
        validate("lightgbm", put(tmp_path, "model.txt", text.encode()))


def external_model(location: str) -> bytes:
    """Return a model whose weights lie in another file."""
    weights = TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT)
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    weights.external_data.add(key="length", value="8")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [weights],
    )
    model: onnx.ModelProto = helper.make_model(graph)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../secret", "", "..", "a\\..\\b", "missing"]
)
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    """Weights must lie beside the graph."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    with pytest.raises(InvalidArtifact, match="external data"):
        validate("onnx", put(folder, "model.onnx", external_model(location)))


def test_external_data_behind_links_is_refused(tmp_path: Path) -> None:
    """Symbolic and hard links to files elsewhere are refused; a plain file passes."""
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    for kind in ("symlink", "hardlink", "plain"):
        folder = tmp_path / kind
        folder.mkdir()
        put(folder, "model.onnx", external_model("weights.bin"))
        if kind == "symlink":
            (folder / "weights.bin").symlink_to(tmp_path / "secret")
        elif kind == "hardlink":
            os.link(tmp_path / "secret", folder / "weights.bin")
        else:
            (folder / "weights.bin").write_bytes(b"\0" * 8)
            validate("onnx", folder)
            continue
        with pytest.raises(InvalidArtifact, match="one link"):
            validate("onnx", folder)


def test_unknown_operators_are_refused(tmp_path: Path) -> None:
    """A graph with operators of somebody's own library cannot be served."""
    graph = helper.make_graph(
        [helper.make_node("Run", ["x"], ["y"], domain="evil.ops")],
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("evil.ops", 1)])
    with pytest.raises(InvalidArtifact, match=r"evil\.ops"):
        validate("onnx", put(tmp_path, "model.onnx", model.SerializeToString()))


def skops_with(**files: bytes) -> bytes:
    """Return a skops archive with files added or replaced."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(models.skops_iris()) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            if name not in files:
                target.writestr(name, source.read(name))
        for name, data in files.items():
            target.writestr(name, data)
    return buffer.getvalue()


def npy(array: "np.ndarray[Any, Any]") -> bytes:
    """Return an array as numpy's own file format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


BOMBS = {
    "zip bomb": ({"bomb.npy": b"\0" * 300_000_000}, "bomb"),
    "traversal": ({"../evil": b"x"}, "path"),
    "absolute": ({"/evil": b"x"}, "path"),
    "objects": ({"evil.npy": npy(np.array([{}], dtype=object))}, "objects"),
    "short array": ({"evil.npy": npy(np.zeros(100))[:-8]}, "shape"),
    "no schema": ({"schema.json": b"{"}, "JSON"),
    "deep schema": ({"schema.json": b'{"a":' * 500 + b"1" + b"}" * 500}, "deeper"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_skops_archives_are_refused(name: str, tmp_path: Path) -> None:
    """Bombs, paths that leave, objects and lies about shapes are refused by name."""
    files, message = BOMBS[name]
    with pytest.raises(InvalidArtifact, match=message):
        validate("sklearn", put(tmp_path, "model.skops", skops_with(**files)))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1000,
        b"[$D#L\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"SL\xff\xff\xff\xff\xff\xff\xff\xff",
        b"{U\x01a",
        b"[#U\xff",
        b"ZZ",
        b"",
        b"{U\x01aZU\x01aZ}",
    ],
)
def test_malformed_ubjson_is_refused(data: bytes) -> None:
    """Depth, lengths beyond the file, duplicates and leftovers are refused without allocation."""
    with pytest.raises(InvalidArtifact):
        loads(data)
