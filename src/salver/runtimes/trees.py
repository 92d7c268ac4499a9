"""Checks that decision trees of scikit-learn only lead to nodes and columns that they have.

Its compiled code follows them unchecked, so that a damaged file could end the process.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from salver.core.errors import InvalidArtifact
from salver.core.tensor import AnyArray

_LEAF = -1
_OWN = "sklearn."
# These hand their trees the rows as they are, without a look at how many columns they have.
_TRUSTING = ("sklearn.ensemble._forest", "sklearn.ensemble._gb", "sklearn.ensemble._iforest")
_BITSET_WORDS = 8


def check_trees(model: Any) -> None:
    """Raise ``InvalidArtifact`` for a tree within a loaded model that leads anywhere else.

    Builders number a node before its children, so children that come later make no circle. What a
    tree says of its columns is in the same file, and has to be what its estimator asks of callers.
    """
    for part in _parts(model):
        own = getattr(part, "__dict__", {})
        if type(part).__name__ == "Tree":
            _check_tree(part)
        if "tree_" in own:
            _same_columns(own["tree_"].n_features, _columns(part))
        if "_predictors" in own:
            _check_boosting(own, _columns(part))
        if type(part).__module__ in _TRUSTING:
            _check_members(part)


def _check_tree(tree: Any) -> None:
    if not 0 < tree.node_count <= tree.capacity:
        raise InvalidArtifact(f"a tree says that it has {tree.node_count} nodes")
    inner = tree.children_left != _LEAF
    _check(inner, tree.children_left, tree.children_right, tree.feature, tree.n_features)


def _check_members(ensemble: Any) -> None:
    """Check that the trees of an ensemble look at no more columns than it has."""
    columns, chosen = _columns(ensemble), getattr(ensemble, "estimators_features_", None)
    for index, member in enumerate(_flat(getattr(ensemble, "estimators_", ()))):
        expected = columns if chosen is None else min(columns, len(chosen[index]))
        _same_columns(_columns(member), expected)


def _check_boosting(model: dict[str, Any], columns: int) -> None:
    by_category = np.asarray(model["_bin_mapper"].is_categorical_)
    for predictor in _flat(model["_predictors"]):
        nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
        if nodes.dtype != _node_type() or not len(nodes):
            raise InvalidArtifact("a tree has no nodes, or of a layout that is not their own")
        inner = nodes["is_leaf"] == 0
        _check(inner, nodes["left"], nodes["right"], nodes["feature_idx"], columns)
        asking = nodes[inner & (nodes["is_categorical"] != 0)]
        if not len(asking):
            continue
        if bitsets.shape != (len(bitsets), _BITSET_WORDS):
            raise InvalidArtifact("a tree's sets of categories are not of their own layout")
        if not (asking["bitset_idx"] < len(bitsets)).all():
            raise InvalidArtifact("a tree looks at a set of categories that is none of its own")
        if by_category.shape != (columns,) or not by_category[asking["feature_idx"]].all():
            raise InvalidArtifact("a tree looks for categories in a column that has none")


def _node_type() -> Any:
    """Return the layout that the compiled code reads, which goes by places and not by names."""
    from sklearn.ensemble._hist_gradient_boosting import common  # noqa: PLC0415 - a heavy library

    return common.PREDICTOR_RECORD_DTYPE


def _check(
    inner: AnyArray, left: AnyArray, right: AnyArray, feature: AnyArray, columns: int
) -> None:
    nodes = np.arange(len(left))[inner]
    for children in (left[inner].astype(np.int64), right[inner].astype(np.int64)):
        if not ((children > nodes) & (children < len(left))).all():
            raise InvalidArtifact("a tree has a child that is no later node of it")
    used = feature[inner].astype(np.int64)
    if not ((used >= 0) & (used < columns)).all():
        raise InvalidArtifact(f"a tree looks at a column that is none of {columns}")


def _same_columns(said: int, expected: int) -> None:
    if said != expected:
        raise InvalidArtifact(f"a tree is for {said} columns where its estimator has {expected}")


def _columns(estimator: Any) -> int:
    """Return how many columns an estimator demands of its callers, 0 if it demands none."""
    columns = getattr(estimator, "n_features_in_", 0)
    return int(columns) if isinstance(columns, int | np.integer) else 0


def _flat(parts: Any) -> Iterator[Any]:
    """Yield what is in a list or array of lists or arrays."""
    for part in parts:
        if isinstance(part, list | tuple | np.ndarray):
            yield from _flat(part)
        else:
            yield part


def _parts(model: Any) -> Iterator[Any]:
    """Yield what a model is made of, each once."""
    seen: set[int] = set()
    waiting: list[Any] = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, np.ndarray):
            waiting += part.flat if part.dtype == object else ()
        elif type(part).__module__.startswith(_OWN):
            yield part
            waiting += getattr(part, "__dict__", {}).values()
