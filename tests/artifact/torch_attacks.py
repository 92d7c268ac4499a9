"""PyTorch archives that do more than compute, and archives whose readers may differ.

Each takes a sound archive and a file to make; torch's own loaders would make it for some.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Change = Callable[[dict[str, bytes], Path], None]


def rewritten(source: Path, target: Path, change: Change, made: Path) -> Path:
    """Write a copy of an archive whose files, by their names without the folder, were changed."""
    with zipfile.ZipFile(source) as old:
        files = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    change(files, made)
    with zipfile.ZipFile(target, "w") as new:
        for name, content in files.items():
            new.writestr(f"model/{name}", content)
    return target


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        """Return the call."""
        return os.mkdir, (str(self.made),)


def saved(value: Any) -> bytes:
    """Return what ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _program(change: Callable[[dict[str, Any], Path], None]) -> Change:
    def applied(files: dict[str, bytes], made: Path) -> None:
        document = json.loads(files["models/model.json"])
        change(document, made)
        files["models/model.json"] = json.dumps(document).encode()

    return applied


def _graph(document: dict[str, Any]) -> dict[str, Any]:
    graph: dict[str, Any] = document["graph_module"]["graph"]
    return graph


def _size(document: dict[str, Any], made: Path) -> None:
    size = _graph(document)["tensor_values"]["x"]["sizes"][0]["as_expr"]
    size["expr_str"] = f"__import__('os').mkdir({str(made)!r}) or {size['expr_str']}"


def _sized(expression: str) -> Change:
    def change(document: dict[str, Any], _: Path) -> None:
        _graph(document)["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = expression

    return _program(change)


def _metadata(document: dict[str, Any], made: Path) -> None:
    """Name the input as torch names what it notes of a node, and hide code in its size."""
    text = json.dumps(document).replace('"name": "x"', '"name": "metadata"')
    changed = json.loads(text)
    _size(changed, made)
    values = _graph(changed)["tensor_values"]
    values["metadata"] = values.pop("x")
    document.clear()
    document.update(changed)


def _dict_key(document: dict[str, Any], made: Path) -> None:
    """Take the input in a dict, whose key torch writes into the source of a function."""
    evil = f"a':0}}), self._in_spec)\n__import__('os').mkdir({str(made)!r})\ndef g(self):\n    0 #"
    signature = document["graph_module"]["module_call_graph"][0]["signature"]
    spec = json.loads(signature["in_spec"])
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    positional, named = spec[1]["children_spec"]
    positional["children_spec"] = []
    named.update(context=json.dumps([evil]), children_spec=[leaf])
    signature.update(in_spec=json.dumps(spec), forward_arg_names=["x"])


def _bounds(document: dict[str, Any], _: Path) -> None:
    document["range_constraints"]["u99999999"] = {"min_val": 0, "max_val": 9}


def _weight_path(
    change: dict[str, Any], name: str = "data/weights/model_weights_config.json"
) -> Change:
    def applied(files: dict[str, bytes], _: Path) -> None:
        config = json.loads(files.pop("data/weights/model_weights_config.json"))
        next(iter(config["config"].values())).update(change)
        files[name] = json.dumps(config).encode()

    return applied


def _added(name: str, content: bytes) -> Change:
    def change(files: dict[str, bytes], _: Path) -> None:
        files[name] = content

    return change


def _operator(name: str) -> Callable[[dict[str, Any], Path], None]:
    def change(document: dict[str, Any], _: Path) -> None:
        _graph(document)["nodes"][0]["target"] = name

    return change


def _input(document: dict[str, Any], made: Path) -> None:
    text = json.dumps(document)
    evil = f"x=__import__('os').mkdir({str(made)!r})"
    changed = json.loads(text.replace('"name": "x"', json.dumps({"name": evil})[1:-1]))
    values = _graph(changed)["tensor_values"]
    values[evil] = values.pop("x")
    document.clear()
    document.update(changed)


def _structure(context: str, kind: str = "collections.defaultdict") -> Any:
    def change(document: dict[str, Any], _: Path) -> None:
        spec = [1, {"type": kind, "context": context, "children_spec": []}]
        for entry in document["graph_module"]["module_call_graph"]:
            if entry["signature"]:
                entry["signature"]["in_spec"] = json.dumps(spec)

    return change


def _sample_inputs(files: dict[str, bytes], made: Path) -> None:
    files["data/sample_inputs/model.pt"] = saved(((Evil(made),), {}))


def _script_inputs(files: dict[str, bytes], _: Path) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("archive/Constants.pkl", b"\x80\x02).")
    files["data/sample_inputs/model.pt"] = written.getvalue()


def _weight(files: dict[str, bytes], made: Path) -> None:
    config = json.loads(files["data/weights/model_weights_config.json"])
    weight = next(iter(config["config"].values()))
    weight["use_pickle"] = True
    files[f"data/weights/{weight['path_name']}"] = saved(Evil(made))
    files["data/weights/model_weights_config.json"] = json.dumps(config).encode()


def _machine_code(files: dict[str, bytes], _: Path) -> None:
    files["data/aotinductor/model/model.so"] = b"\x7fELF"


def _deep(files: dict[str, bytes], _: Path) -> None:
    files["models/model.json"] = b'{"a":' * 200 + b"1" + b"}" * 200


EXPORTED: dict[str, tuple[Change, str]] = {
    "a pickle among the sample inputs": (_sample_inputs, "would run"),
    "a pickle among the weights": (_weight, "would run|kept as a pickle"),
    "a weight that is told to be a pickle": (_weight_path({"use_pickle": True}), "as a pickle"),
    "a weight that is an object of C++": (
        _weight_path({"path_name": "custom_obj_d/0"}), "is no weight",
    ),
    "weights told of in capitals": (
        _weight_path({"path_name": "x/0"}, "Data/weights/model_weights_config.JSON"), "no weight",
    ),
    "an object of C++ in a folder": (_added("data/constants/Custom_Obj_d/0", b"x"), "C[+][+]"),
    "a second program in capitals": (_added("Models/other.json", b"{}"), "several programs"),
    "machine code in capitals": (_added("Data/AOTInductor/model/model.so", b"x"), "machine code"),
    "a program among the sample inputs": (_script_inputs, "program of its own"),
    "a value named metadata": (_program(_metadata), "no arithmetic"),
    "a power of a power": (_sized("Pow(Pow(Integer(9), Integer(64)), Integer(64))"), "arithmetic"),
    "an exponent that is a power": (_sized("Pow(Integer(9),Pow(Integer(9),Integer(9)))"), "arith"),
    "a large exponent": (_sized("Pow(Integer(9), Integer(999999999))"), "no arithmetic"),
    "a long shift": (_sized("LShift(Integer(1), 99999999999)"), "no arithmetic"),
    "a float of many digits": (_sized("Float('0.5', precision=99999999999)"), "no arithmetic"),
    "a number of a large exponent": (_sized("Rational('1e999999999')"), "no arithmetic"),
    "a symbol to count to": (_sized("Symbol('u99999999', integer=True)"), "no arithmetic"),
    "a bound to count to": (_program(_bounds), "is no size"),
    "a size that is code": (_program(_size), "no arithmetic"),
    "an operator that opens files": (
        _program(_operator("torch.ops.aten.from_file.default")), "only PyTorch's own",
    ),
    "a function of another module": (_program(_operator("torch.os.system")), "only PyTorch's own"),
    "an input's name that is code": (_program(_input), "is no name"),
    "a module to import": (
        _program(_structure('{"default_factory_module": "antigravity"}')), "only tuples",
    ),
    "an enum to import": (
        _program(_structure('{"__enum__": true, "fqn": "antigravity:x"}', "builtins.dict")), "enum",
    ),
    "an enum written with escapes": (
        _program(_structure('{"\\u005f_enum__": 1, "fqn": "antigravity:x"}', "builtins.dict")),
        "enum",
    ),
    "an enum in a list": (
        _program(_structure('["a", {"__enum__": 1, "fqn": "antigravity:x"}]', "builtins.dict")),
        "enum",
    ),
    "a key that is code": (_program(_dict_key), "only names"),
    "machine code": (_machine_code, "machine code"),
    "a document of 200 levels": (_deep, "nests"),
}  # fmt: skip


def source(text: str) -> Change:
    """Return a change that puts a statement at the beginning of ``forward``."""

    def change(files: dict[str, bytes], made: Path) -> None:
        name = next(
            name for name in files if name.endswith(".py") and b"def forward" in files[name]
        )
        code = files[name]
        start = code.index(b":\n", code.index(b"->", code.index(b"def forward"))) + 2
        line = f"    {text.format(made=str(made))}\n".encode()
        files[name] = code[:start] + line + code[start:]

    return change


def _global(files: dict[str, bytes], made: Path) -> None:
    files["data.pkl"] = b"\x80\x02cposix\nmkdir\nX\x01\x00\x00\x00a\x85R."


def _global_of_four(files: dict[str, bytes], _: Path) -> None:
    files["data.pkl"] = b"\x80\x04\x8c\x05torch\x8c\x06Tensor\x93."


def _renamed(change: Change, old: str, new: str) -> Change:
    def applied(files: dict[str, bytes], made: Path) -> None:
        change(files, made)
        for name in list(files):
            files[name.replace(old, new)] = files.pop(name)

    return applied


SAVING = source('_9 = torch.save(x, "{made}")')
# PyTorch reads types from the comment, where a text begins for it; for Python one begins later.
TWO_READINGS = """  def types(self: {name},
    s: int) -> int:
    # type: (\"\"\"torch.cuda.Stream
    return \"\"\") -> int
    return 1
  def forward(self: {name},
    x: Tensor) -> Tensor:
    torch.save(x, "{made}")
    return x
  # \"\"\"
"""


def _two_readings(files: dict[str, bytes], made: Path) -> None:
    path = "code/__torch__/tests/torch_models.py"
    head = files[path].partition(b"  def forward")[0]
    body = TWO_READINGS.format(name="__torch__.tests.torch_models.Iris", made=made)
    files[path] = head + body.encode()


SCRIPTS: dict[str, tuple[Change, str]] = {
    "writing a file": (SAVING, "writes files"),
    "writing a file from a folder in capitals": (
        _renamed(SAVING, "code/", "Code/"),
        "writes files",
    ),
    "writing a file from a name in capitals": (_renamed(SAVING, ".py", ".PY"), "writes files"),
    "a pickle that calls in capitals": (_renamed(_global, "data.pkl", "Data.pkl"), "would run"),
    "an old program in capitals": (_added("Model.json", b"{}"), "before 1.0"),
    "a pickle of four": (_global_of_four, "STACK_GLOBAL"),
    "a comment": (source("_9 = 1 # one"), "comment"),
    "a comment of types that PyTorch reads": (_two_readings, "comment"),
    "a long text": (source('_9 = """one"""'), "form"),
    "a raw text": (source("_9 = r'one'"), "form"),
    "a line that goes on": (source("_9 = 1 + \\\n    2"), "characters"),
    "a carriage return": (source("_9 = 1\r    _8 = 2"), "characters"),
    "another alphabet": (source("_9 = \uff54orch.one"), "characters"),
    "mapping a file": (source('_9 = torch.from_file("{made}", True, 16)'), "opens files"),
    "mapping a file as a method": (source('_9 = ("{made}").from_file(True, 16)'), "opens files"),
    "mapping a file by getattr": (source('_9 = getattr(torch, "from_file")'), "opens files"),
    "calling other machines": (source("_9 = ops.c10d.barrier(x)"), "only PyTorch's own"),
    "hidden operators": (source("_9 = ops"), "hides"),
    "a C++ class": (source("_9 = __torch__.torch.classes.dist_rpc.WorkerInfo"), "C[+][+] classes"),
    "an import": (source("import os"), "imports"),
    "what is no code": (source("(((("), "cannot be read"),
    "a pickle that calls": (_global, "would run"),
}
