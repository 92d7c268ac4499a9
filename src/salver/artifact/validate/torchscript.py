"""The source inside TorchScript archives: operators of PyTorch that compute, and no others.

It is written in a part of Python's syntax, and part of it runs while the file is loaded.
"""

import ast
import io
import tokenize

from salver.core.errors import InvalidArtifact

_NAMESPACES = frozenset(
    {
        "aten", "prim", "prims", "quantized", "_quantized", "mkldnn", "mkldnn_prepacked", "onednn",
        "prepacked", "sparse", "torchvision",
    }
)  # fmt: skip
_OPERATORS = "ops"
_CHARACTERS = frozenset(map(chr, range(0x20, 0x7F))) | {"\n"}
_QUOTES = ("'", '"')
_LONG_QUOTES = ("'''", '"""')
_CLASSES = frozenset({"quantized", "sparse"})
_FORBIDDEN = {
    "from_file": "opens files",
    "save": "writes files",
    "rpc_async": "calls other machines",
    "rpc_sync": "calls other machines",
    "rpc_remote": "calls other machines",
    "data_ptr": "tells addresses of memory",
}


def check_source(name: str, source: bytes) -> None:
    """Raise ``InvalidArtifact`` for operators that reach out of the model, and what is no code."""
    try:
        text = source.decode()
        tree = ast.parse(text, name)
        _check_tokens(name, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise InvalidArtifact(f"{name[:80]!r} cannot be read: {error}"[:300]) from error
    bases: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            bases.add(node.value)
            _check_name(name, node.attr)
            _check_attribute(name, node)
        elif isinstance(node, ast.Name):
            _check_name(name, node.id)
            if node.id == _OPERATORS and node not in bases:
                raise _hidden(name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            _check_import(name, node)
        elif isinstance(node, ast.Call):
            _check_getattr(name, node)


def _check_tokens(name: str, text: str) -> None:
    """Refuse what PyTorch's parser may end elsewhere than Python's; it writes none of this."""
    if not _CHARACTERS.issuperset(text) or "\\\n" in text:
        raise InvalidArtifact(f"{name[:80]!r} holds characters that PyTorch never writes")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            raise InvalidArtifact(f"{name[:80]!r} holds a comment, which PyTorch never writes")
        is_text = token.type == tokenize.STRING
        if is_text and (not token.string.startswith(_QUOTES) or token.string[:3] in _LONG_QUOTES):
            raise InvalidArtifact(f"{name[:80]!r} holds a text in a form PyTorch never writes")


def _check_name(name: str, used: str) -> None:
    if used in _FORBIDDEN:
        raise InvalidArtifact(
            f"{name[:80]!r} calls {used!r}, which {_FORBIDDEN[used]}; a model that is served may "
            "only compute"
        )


def _check_attribute(name: str, node: ast.Attribute) -> None:
    base = node.value
    if isinstance(base, ast.Name) and base.id == _OPERATORS and node.attr not in _NAMESPACES:
        raise InvalidArtifact(
            f"{name[:80]!r} uses operators of {node.attr[:80]!r}; only PyTorch's own can be served"
        )
    if isinstance(base, ast.Attribute) and _is_classes(base) and node.attr not in _CLASSES:
        raise InvalidArtifact(
            f"{name[:80]!r} uses C++ classes of {node.attr[:80]!r}; only quantized weights may"
        )


def _is_classes(node: ast.Attribute) -> bool:
    """Tell whether this is ``torch.classes``, whatever stands before it."""
    owner = node.value
    before = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return node.attr == "classes" and before == "torch"


def _hidden(name: str) -> InvalidArtifact:
    return InvalidArtifact(f"{name[:80]!r} hides which operators it uses")


def _check_import(name: str, node: ast.Import | ast.ImportFrom) -> None:
    modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [
        alias.name for alias in node.names
    ]  # fmt: skip
    for module in modules:
        if not module.startswith("__torch__"):
            raise InvalidArtifact(f"{name[:80]!r} imports {module[:80]!r}")


def _check_getattr(name: str, node: ast.Call) -> None:
    if isinstance(node.func, ast.Name) and node.func.id == "getattr":
        for argument in node.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                _check_name(name, argument.value)
