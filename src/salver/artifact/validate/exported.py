"""The JSON inside exported programs: names, operators and sizes that are what they seem.

``torch.export.load`` looks operators up by name in the whole of torch, makes Python source of the
names it reads, and evaluates sizes as Python. So each text in the document is held to a form in
which it can only be what it stands for.
"""

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from salver.artifact.torch_archive import HOW
from salver.core.errors import InvalidArtifact, PickleRefused

_MAX_DEPTH = 128
_MAX_ITEMS = 20_000_000
_MAX_TEXT = 1_000_000
_MAX_EXPRESSION = 2_000
_NAMESPACES = "aten|prim|prims|quantized|quantized_decomposed|torchvision"
_OPERATOR = re.compile(rf"torch\.ops\.({_NAMESPACES})\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+")
_HIGHER = re.compile(
    r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop|"
    r"map_impl|scan)"
)
_SIZES = re.compile(r"(_operator|math)\.[a-z0-9_]+|torch\._?sym_[a-z0-9_]+")
_FORBIDDEN = ("from_file", "save", "data_ptr")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@\[\]() ,*+<>=-]*")
_SYMBOL_CALLS = frozenset(
    {
        "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Abs", "Mod",
        "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt",
        "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv",
        "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt",
        "RoundDecimal", "ToFloat", "Identity", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality",
        "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or",
        "Not", "floor", "ceiling",
    }
)  # fmt: skip
_SYMBOL_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
    ast.Compare, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip
_MAX_INTEGER = 1 << 63
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift", "RShift", "RoundDecimal"})
_MAX_EXPONENT = 64
_MAX_PRECISION = 1024
_SYMBOL = re.compile(r"[suz][a-z]{0,3}[0-9]{1,6}")
_LONG_NUMBER = re.compile(r"[0-9]{7}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{0,40})?(e[+-]?[0-9]{1,3})?")
_WEIGHTS = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_WEIGHT = re.compile(r"(weight|tensor)_[0-9]+")
_REMARKED = frozenset({"nodes", "graph_module"})
_CONTAINERS = frozenset(
    {
        None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
        "torch.Size",
    }
)  # fmt: skip


def check_program(data: bytes) -> None:
    """Raise ``InvalidArtifact`` for a document that could make torch do more than compute."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidArtifact(f"models/model.json is not JSON: {error}") from error
    for key, value in _texts(document):
        if len(value) > _MAX_TEXT:
            raise InvalidArtifact(f"a text of models/model.json has {len(value)} characters")
        check = _CHECKS.get(key)
        if check is not None:
            check(value)
        elif key not in _FREE and not _PLAIN.fullmatch(value):
            raise InvalidArtifact(f"{key[:40]!r} of the program is {value[:80]!r}")


def _texts(document: Any) -> Iterator[tuple[str, str]]:
    """Yield each text with the key that it, or the list around it, stands under; keys too."""
    level: list[tuple[str, str, Any]] = [("", "", document)]
    count = depth = 0
    while level:
        depth += 1
        following: list[tuple[str, str, Any]] = []
        for parent, key, item in level:
            if isinstance(item, str):
                yield key, item
            elif isinstance(item, list):
                following.extend((parent, key, part) for part in item)
            elif isinstance(item, dict):
                if _is_remark(parent, key, item):
                    continue
                for name, part in item.items():
                    yield _NAMES_OF.get(key, "key"), name
                    following.append((key, name, part))
        count += len(following)
        if depth > _MAX_DEPTH or count > _MAX_ITEMS:
            raise InvalidArtifact("models/model.json nests too deep, or holds too much")
        level = following


def _is_remark(parent: str, key: str, item: dict[str, Any]) -> bool:
    """Tell whether this is what torch notes of a node; a value may be named ``metadata`` too."""
    plain = all(isinstance(part, str) for part in item.values())
    return key == "metadata" and parent in _REMARKED and plain


def _operator(text: str) -> None:
    found = _OPERATOR.fullmatch(text) or _HIGHER.fullmatch(text) or _SIZES.fullmatch(text)
    if not found or any(part in _FORBIDDEN for part in text.split(".")):
        raise InvalidArtifact(
            f"the program calls {text[:120]!r}; only PyTorch's own operators that compute can be "
            "served"
        )


def _identifier(text: str) -> None:
    if text and not _IDENTIFIER.fullmatch(text):
        raise InvalidArtifact(f"the program names a value {text[:80]!r}, which is no name")


def _expression(text: str) -> None:
    """Hold a size to arithmetic of symbols and numbers."""
    if len(text) > _MAX_EXPRESSION:
        raise InvalidArtifact(f"a size of the program is written in {len(text)} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidArtifact(f"a size of the program is {text[:80]!r}") from error
    for node in ast.walk(tree):
        fine = isinstance(node, _SYMBOL_NODES)
        if isinstance(node, ast.Call):
            fine = isinstance(node.func, ast.Name) and _is_call(node.func.id, node)
        elif isinstance(node, ast.Name):
            fine = node.id in _SYMBOL_CALLS or _SYMBOL.fullmatch(node.id) is not None
        elif isinstance(node, ast.Constant):
            fine = _is_constant(node.value)
        elif isinstance(node, ast.keyword):
            fine = isinstance(node.value, ast.Constant) and _is_small(node.value, _MAX_PRECISION)
        if not fine:
            raise InvalidArtifact(f"a size of the program is {text[:80]!r}, which is no arithmetic")


def _is_call(name: str, node: ast.Call) -> bool:
    """Tell whether a call is known, and ends soon: numbers raised twice never would."""
    if name in _POWERS:
        if node.keywords or len(node.args) != 2:  # noqa: PLR2004 - base and exponent
            return False
        base, exponent = node.args
        inner = {part.id for part in ast.walk(base) if isinstance(part, ast.Name)}
        return not inner & _POWERS and _is_small(exponent, _MAX_EXPONENT)
    is_one = name not in ("Float", "Integer", "Symbol") or len(node.args) == 1
    return name in _SYMBOL_CALLS and is_one


def _is_small(node: ast.expr, most: int) -> bool:
    """Tell whether this is a whole number that is written out, and how."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Integer":
        return len(node.args) == 1 and not node.keywords and _is_small(node.args[0], most)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_small(node.operand, most)
    return (
        isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) <= most
    )


def _is_constant(value: object) -> bool:
    if isinstance(value, str):
        is_name = re.fullmatch(r"[A-Za-z]\w{0,40}", value) and not _LONG_NUMBER.search(value)
        return bool(is_name or _NUMBER.fullmatch(value))
    if isinstance(value, bool | float):
        return True
    return isinstance(value, int) and abs(value) < _MAX_INTEGER


def _symbol(text: str) -> None:
    """Hold a name of a size to small numbers, as torch counts up to each."""
    if not _SYMBOL.fullmatch(text):
        raise InvalidArtifact(f"the program bounds {text[:80]!r}, which is no size")


def check_weights(name: str, data: bytes) -> None:
    """Raise ``InvalidArtifact`` unless each weight is raw numbers in a file of its own."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidArtifact(f"{name[:80]!r} is not JSON: {error}") from error
    weights = document.get("config") if isinstance(document, dict) else None
    if not _WEIGHTS.fullmatch(name) or not isinstance(weights, dict):
        raise InvalidArtifact(f"{name[:80]!r} is not what torch.export.save writes")
    for weight in weights.values():
        path = weight.get("path_name") if isinstance(weight, dict) else None
        if not isinstance(path, str) or not _WEIGHT.fullmatch(path):
            raise InvalidArtifact(f"{name[:80]!r} names {str(path)[:80]!r}, which is no weight")
        if weight.get("use_pickle") is not False:
            raise PickleRefused(f"{path[:80]!r} is a weight that is kept as a pickle; {HOW}")


def _structure(text: str) -> None:
    """Hold the nesting of inputs and outputs to plain containers; others are imported by name."""
    if not text:
        return
    try:
        level = [orjson.loads(text)]
    except orjson.JSONDecodeError as error:
        raise InvalidArtifact("the structure of the program's inputs is not JSON") from error
    depth = 0
    while level:
        depth += 1
        following: list[Any] = []
        for item in level:
            if isinstance(item, list):
                following.extend(part for part in item if isinstance(part, list | dict))
            elif isinstance(item, dict):
                if "type" in item and item["type"] not in _CONTAINERS:
                    raise InvalidArtifact(
                        f"the program takes or gives a {str(item['type'])[:80]!r}; only tuples, "
                        "lists and dicts of tensors can be served"
                    )
                _check_context(item.get("context"))
                following.extend(item.get("children_spec", []))
        if depth > _MAX_DEPTH:
            raise InvalidArtifact("the program's inputs nest too deep")
        level = following


def _check_context(text: Any) -> None:
    """Hold what a container notes, JSON inside JSON, to the keys of a dict; they become source."""
    try:
        context = None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArtifact("what a container of the program notes is not JSON") from error
    if context is not None and not (
        isinstance(context, list)
        and all(isinstance(key, str) and _IDENTIFIER.fullmatch(key) for key in context)
    ):
        raise InvalidArtifact(
            f"the program takes or gives a dict with the keys {str(context)[:80]!r}; only names of "
            "letters, digits and _ can be served, and no enum"
        )


_CHECKS: dict[str, Callable[[str], None]] = {
    "target": _operator,
    "as_operator": _operator,
    "name": _identifier,
    "as_name": _identifier,
    "value name": _identifier,
    "size name": _symbol,
    "expr_str": _expression,
    "in_spec": _structure,
    "out_spec": _structure,
    "forward_arg_names": _identifier,
}
_FREE = frozenset({"as_string", "as_strings", "guards_code", "torch_version", "as_complex"})
# Which names the keys of a mapping are, by the key that it stands under.
_NAMES_OF = {
    "tensor_values": "value name",
    "sym_int_values": "value name",
    "sym_bool_values": "value name",
    "sym_float_values": "value name",
    "custom_obj_values": "value name",
    "range_constraints": "size name",
}
