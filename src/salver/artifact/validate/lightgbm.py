"""LightGBM text: every tree's children, features and sizes are in range."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from salver.artifact.validate.base import model_file
from salver.core.errors import InvalidArtifact

_MAX_BYTES = 2 * 1024**3
_MAX_CLASSES = 100_000
_MAX_FEATURES = 10_000_000
_CATEGORICAL = 1
_MAX_DECISION = 15
_END = b"end of trees"
_PARAMETER = re.compile(rb"\[[a-z0-9_]+: .*\]")

Integers = npt.NDArray[np.int64]


def validate(folder: Path) -> None:
    """Check the model file of a LightGBM artifact."""
    path = model_file(folder, (".txt", ".lgb"))
    if path.stat().st_size > _MAX_BYTES:
        raise InvalidArtifact(f"{path.name} is over {_MAX_BYTES} bytes")
    data = path.read_bytes()
    if b"\0" in data or (not data.isascii() and not _is_utf8(data)):
        raise InvalidArtifact("the file is not text")
    head, separator, _ = data.partition(b"\nTree=0\n")
    if not data.startswith(b"tree\n") or not separator:
        raise InvalidArtifact("the file has no header followed by trees")
    header = _fields(head[len(b"tree\n") :], "header")
    features = _header(header)
    _trees(data, len(head) + 1, _whole_numbers(header, "tree_sizes"), features)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _header(header: dict[str, str]) -> int:
    classes = _whole_number(header, "num_class", _MAX_CLASSES)
    per_iteration = _whole_number(header, "num_tree_per_iteration", _MAX_CLASSES)
    features = _whole_number(header, "max_feature_idx", _MAX_FEATURES) + 1
    if classes < 1 or per_iteration < 1:
        raise InvalidArtifact("num_class and num_tree_per_iteration begin at 1")
    if len(header["feature_names"].split(" ")) != features:
        raise InvalidArtifact(f"the number of feature names is not {features}")
    if len(header["feature_infos"].split(" ")) != features:
        raise InvalidArtifact(f"the number of feature infos is not {features}")
    trees = len(_whole_numbers(header, "tree_sizes"))
    if trees % per_iteration:
        raise InvalidArtifact(f"{trees} trees do not make whole iterations of {per_iteration}")
    return features


def _trees(data: bytes, start: int, sizes: Integers, features: int) -> None:
    """Walk the trees by their stated sizes, as LightGBM does."""
    position = start
    if bool((sizes <= 0).any()) or int(sizes.sum()) > len(data):
        raise InvalidArtifact("tree_sizes do not fit into the file")
    for index, size in enumerate(sizes.tolist()):
        block = data[position : position + size]
        title = b"Tree=%d\n" % index
        if not block.startswith(title) or b"\nTree=" in block:
            raise InvalidArtifact(f"tree {index} is not where tree_sizes says")
        try:
            _tree(_fields(block[len(title) :], f"tree {index}"), features)
        except InvalidArtifact as error:
            raise InvalidArtifact(f"tree {index}: {error.message}") from error
        position += size
    rest = data[position:].lstrip(b"\n")
    if not rest.startswith(_END):
        raise InvalidArtifact("the trees are not followed by 'end of trees'")
    _parameters(rest)


def _parameters(rest: bytes) -> None:
    """Check the training parameters at the end, which LightGBM reads again when it loads."""
    _, separator, section = rest.partition(b"\nparameters:\n")
    if not separator:
        return
    lines, separator, _ = section.partition(b"\nend of parameters")
    if not separator:
        raise InvalidArtifact("the parameters have no end")
    for line in lines.splitlines():
        if line and _PARAMETER.fullmatch(line) is None:
            raise InvalidArtifact(
                f"parameter line {line[:60].decode(errors='replace')!r} is damaged"
            )


def _tree(tree: dict[str, str], features: int) -> None:
    leaves = _whole_number(tree, "num_leaves", _MAX_FEATURES)
    categories = _whole_number(tree, "num_cat", _MAX_FEATURES)
    if leaves < 1:
        raise InvalidArtifact("num_leaves is 0")
    _numbers(tree, "leaf_value", leaves)
    if tree.get("is_linear", "0") != "0":
        _linear(tree, leaves, features)
    inner = leaves - 1
    if inner == 0:
        return
    left, right = _whole_numbers(tree, "left_child"), _whole_numbers(tree, "right_child")
    if len(left) != inner or len(right) != inner:
        raise InvalidArtifact(f"the child lists do not have {inner} entries")
    _children(np.concatenate((left, right)), inner, leaves)
    splits, kinds = _whole_numbers(tree, "split_feature"), _whole_numbers(tree, "decision_type")
    if len(splits) != inner or bool(((splits < 0) | (splits >= features)).any()):
        raise InvalidArtifact(f"a split uses a feature outside 0 to {features - 1}")
    if len(kinds) != inner or bool(((kinds < 0) | (kinds > _MAX_DECISION)).any()):
        raise InvalidArtifact("a decision type is out of range")
    thresholds = _numbers(tree, "threshold", inner)
    _categorical(tree, thresholds[(kinds & _CATEGORICAL) > 0], categories)


def _children(children: Integers, inner: int, leaves: int) -> None:
    nodes, ends = children[children >= 0], ~children[children < 0]
    if bool((nodes >= inner).any()) or bool((nodes == 0).any()):
        raise InvalidArtifact(f"a child index is outside 1 to {inner - 1}")
    if bool((ends >= leaves).any()):
        raise InvalidArtifact(f"a leaf index is outside 0 to {leaves - 1}")
    if len(np.unique(nodes)) != len(nodes) or len(np.unique(ends)) != len(ends):
        raise InvalidArtifact("a node has two parents, so the tree has a cycle")


def _categorical(
    tree: dict[str, str], thresholds: npt.NDArray[np.float64], categories: int
) -> None:
    if bool(((thresholds < 0) | (thresholds >= max(categories, 0))).any()):
        raise InvalidArtifact("a categorical split points outside its table")
    if categories == 0:
        return
    bounds, table = _whole_numbers(tree, "cat_boundaries"), _whole_numbers(tree, "cat_threshold")
    if (
        len(bounds) != categories + 1
        or bounds[0] != 0
        or bounds[-1] != len(table)
        or bool((np.diff(bounds) < 0).any())
    ):
        raise InvalidArtifact("cat_boundaries do not divide cat_threshold")


def _linear(tree: dict[str, str], leaves: int, features: int) -> None:
    counts = _whole_numbers(tree, "num_features")
    used = _whole_numbers(tree, "leaf_features")
    _numbers(tree, "leaf_const", leaves)
    if len(counts) != leaves or bool((counts < 0).any()) or int(counts.sum()) != len(used):
        raise InvalidArtifact("the linear leaves do not fit their features")
    if bool(((used < 0) | (used >= features)).any()):
        raise InvalidArtifact("a linear leaf uses a feature that does not exist")
    _numbers(tree, "leaf_coeff", len(used))


def _fields(block: bytes, what: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        key, separator, value = line.partition("=")
        if not separator:
            continue
        if key in fields:
            raise InvalidArtifact(f"{what}: {key[:40]!r} occurs twice")
        fields[key] = value.rstrip(" \r")
    return fields


def _whole_number(fields: dict[str, str], name: str, limit: int) -> int:
    text = fields[name]
    if not text.isascii() or not text.isdigit() or int(text) > limit:
        raise InvalidArtifact(f"{name} is {text[:40]!r}, not a whole number up to {limit}")
    return int(text)


def _whole_numbers(fields: dict[str, str], name: str) -> Integers:
    text = fields.get(name)
    if text is None:
        raise InvalidArtifact(f"{name} is missing")
    return np.array([int(word) for word in text.split()], np.int64)


def _numbers(fields: dict[str, str], name: str, count: int) -> npt.NDArray[np.float64]:
    text = fields.get(name)
    if text is None:
        raise InvalidArtifact(f"{name} is missing")
    numbers = np.array([float(word) for word in text.split()], np.float64)
    if len(numbers) != count:
        raise InvalidArtifact(f"{name} has {len(numbers)} entries, {count} are needed")
    return numbers
