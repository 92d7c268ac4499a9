"""XGBoost JSON and UBJ: every tree's children, features and categories are in range."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from salver.artifact.validate.base import model_file
from salver.artifact.validate.ubjson import loads
from salver.core.errors import InvalidArtifact

_MAX_BYTES = 2 * 1024**3
_MAX_FEATURES = 10_000_000
_MAX_CLASSES = 100_000
_SAME_LENGTH = (
    "right_children", "parents", "split_indices", "split_conditions", "default_left",
    "base_weights", "loss_changes", "sum_hessian", "split_type",
)  # fmt: skip
_BOOSTERS = ("gbtree", "dart", "gblinear")

Integers = npt.NDArray[np.int64]


def validate(folder: Path) -> None:
    """Check the model file of an XGBoost artifact."""
    path = model_file(folder, (".json", ".ubj"))
    if path.stat().st_size > _MAX_BYTES:
        raise InvalidArtifact(f"{path.name} is over {_MAX_BYTES} bytes")
    data = path.read_bytes()
    if path.name.lower().endswith(".json"):
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise InvalidArtifact(f"{path.name} is not JSON: {error}") from error
    else:
        document = loads(data)
    _learner(document["learner"])


def _learner(learner: dict[str, Any]) -> None:
    parameters = learner["learner_model_param"]
    features = _number(parameters, "num_feature", _MAX_FEATURES)
    classes = _number(parameters, "num_class", _MAX_CLASSES)
    targets = _number(parameters, "num_target", _MAX_CLASSES) if "num_target" in parameters else 1
    names = learner.get("feature_names", [])
    if len(names) not in (0, features):
        raise InvalidArtifact(f"{len(names)} feature names for {features} features")
    if len(learner.get("feature_types", [])) not in (0, features):
        raise InvalidArtifact(f"the number of feature types is not {features}")
    booster = learner["gradient_booster"]
    if booster["name"] not in _BOOSTERS:
        raise InvalidArtifact(f"booster {str(booster['name'])[:40]!r} is not one of {_BOOSTERS}")
    groups = max(1, classes, targets)
    if booster["name"] == "gblinear":
        _linear(booster["model"], features, groups)
        return
    model = booster["gbtree"]["model"] if booster["name"] == "dart" else booster["model"]
    _forest(model, features, groups)
    if booster["name"] == "dart" and len(booster["weight_drop"]) != len(model["trees"]):
        raise InvalidArtifact("weight_drop does not have one weight for each tree")


def _linear(model: dict[str, Any], features: int, groups: int) -> None:
    if len(model["weights"]) != (features + 1) * groups:
        raise InvalidArtifact(f"{len(model['weights'])} weights for {features} features")


def _forest(model: dict[str, Any], features: int, groups: int) -> None:
    trees = model["trees"]
    parameters = model["gbtree_model_param"]
    if _number(parameters, "num_trees", len(trees)) != len(trees):
        raise InvalidArtifact(f"num_trees is {parameters['num_trees']}, there are {len(trees)}")
    info = _integers(model, "tree_info")
    if len(info) != len(trees) or bool(((info < 0) | (info >= groups)).any()):
        raise InvalidArtifact("tree_info does not name an output group for each tree")
    if "iteration_indptr" in model:
        bounds = _integers(model, "iteration_indptr")
        if len(bounds) and (
            bounds[0] != 0 or bounds[-1] != len(trees) or bool((np.diff(bounds) < 0).any())
        ):
            raise InvalidArtifact("iteration_indptr does not divide the trees")
    for index, tree in enumerate(trees):
        try:
            _tree(tree, features)
        except InvalidArtifact as error:
            raise InvalidArtifact(f"tree {index}: {error.message}") from error


def _tree(tree: dict[str, Any], features: int) -> None:
    parameters = tree["tree_param"]
    left = _integers(tree, "left_children")
    count = len(left)
    if count == 0 or _number(parameters, "num_nodes", count) != count:
        raise InvalidArtifact(f"num_nodes is {parameters['num_nodes']}, {count} nodes are listed")
    if _number(parameters, "size_leaf_vector", 1) > 1:
        raise InvalidArtifact("vector leaves are not supported; train one tree for each output")
    for name in _SAME_LENGTH:
        if len(tree[name]) != count:
            raise InvalidArtifact(f"{name} has {len(tree[name])} entries for {count} nodes")
    right = _integers(tree, "right_children")
    inner = left != -1
    if bool((inner != (right != -1)).any()):
        raise InvalidArtifact("a node has only one child")
    children = np.concatenate((left[inner], right[inner]))
    if bool(((children <= 0) | (children >= count)).any()):
        raise InvalidArtifact(f"a child index is outside 1 to {count - 1}")
    if len(np.unique(children)) != len(children):
        raise InvalidArtifact("a node has two parents, so the tree has a cycle")
    splits = _integers(tree, "split_indices")[inner]
    if bool(((splits < 0) | (splits >= features)).any()):
        raise InvalidArtifact(f"a split uses a feature outside 0 to {features - 1}")
    _floats(tree, "split_conditions")
    _floats(tree, "base_weights")
    _categories(tree, count)


def _categories(tree: dict[str, Any], count: int) -> None:
    kinds = _integers(tree, "split_type")
    if bool(((kinds < 0) | (kinds > 1)).any()):
        raise InvalidArtifact("a split type is neither numerical nor categorical")
    nodes = _integers(tree, "categories_nodes")
    segments, sizes = _integers(tree, "categories_segments"), _integers(tree, "categories_sizes")
    categories = _integers(tree, "categories")
    if not len(nodes) == len(segments) == len(sizes):
        raise InvalidArtifact("the category tables have unequal lengths")
    if bool(((nodes < 0) | (nodes >= count)).any()) or bool((np.diff(nodes) <= 0).any()):
        raise InvalidArtifact("a category table belongs to no node")
    ends = segments + sizes
    if bool(((segments < 0) | (sizes < 0) | (ends > len(categories))).any()):
        raise InvalidArtifact("a category table reaches past its end")
    if bool(((categories < 0) | (categories > _MAX_FEATURES)).any()):
        raise InvalidArtifact("a category is out of range")
    if set(np.flatnonzero(kinds == 1).tolist()) - set(nodes.tolist()):
        raise InvalidArtifact("a categorical split has no categories")


def _number(parameters: dict[str, Any], name: str, limit: int) -> int:
    text = parameters[name]
    if not isinstance(text, str | int) or not str(text).isascii() or not str(text).isdigit():
        raise InvalidArtifact(f"{name} is {str(text)[:40]!r}, not a whole number")
    if int(text) > limit:
        raise InvalidArtifact(f"{name} is {int(text)}, which is over {limit}")
    return int(text)


def _integers(holder: dict[str, Any], name: str) -> Integers:
    array = np.asarray(holder[name])
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise InvalidArtifact(f"{name} is not a list of whole numbers")
    return array.astype(np.int64)


def _floats(holder: dict[str, Any], name: str) -> None:
    array = np.asarray(holder[name])
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise InvalidArtifact(f"{name} is not a list of numbers")
