"""The servers with models besides that give their tensors back: one of each datatype, and two."""

from __future__ import annotations

from typing import Any, ClassVar

from bench.environments import BENCH
from bench.servers.mlserver import MLServer
from bench.servers.salver import Salver
from bench.servers.triton import Triton
from salver.conformance.tensors import DATATYPES
from tests.models import onnx_identity, onnx_pair

TABULAR = {
    "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 30]}],
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    ],
}
ECHOES = {f"echo-{datatype.lower()}": datatype for datatype in DATATYPES}
PAIR = "echo-pair"


class EchoSalver(Salver):
    """Salver with every extension switched on; its models are ONNX graphs of one node."""

    settings: ClassVar[dict[str, dict[str, Any]]] = {"http": {"repository_changes": True}}

    def fill(self) -> None:
        """Push and deploy."""
        super().fill()
        files = {name: onnx_identity(datatype) for name, datatype in ECHOES.items()}
        for name, path in {**files, PAIR: onnx_pair()}.items():
            self.command("push", str(path), "--name", name)
            self.command("deploy", f"{name}:1")


class EchoTriton(Triton):
    """Triton; its models are a few lines of Python."""

    def fill(self) -> None:
        """Write the model repository."""
        super().fill()
        for name, datatype in ECHOES.items():
            self._add_echo(name, datatype, ("",))
        self._add_echo(PAIR, "FP32", ("", "2"))

    def _add_echo(self, name: str, datatype: str, ends: tuple[str, ...]) -> None:
        kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
        sides = [
            f'{side} [ {{ name: "{tensor}{end}", data_type: {kind}, dims: [ -1, -1 ] }} ]\n'
            for side, tensor in (("input", "x"), ("output", "y"))
            for end in ends
        ]
        self.add(
            name,
            BENCH / "peers" / "triton" / "echo.py",
            f'name: "{name}"\nbackend: "python"\nmax_batch_size: 0\n{"".join(sides)}'
            "instance_group [ { kind: KIND_CPU, count: 1 } ]\n",
        )


class EchoMLServer(MLServer):
    """MLServer; its models have metadata, which it takes from their settings only."""

    def fill(self) -> None:
        """Write the model folder."""
        self.add("tabular", "tabular", {"implementation": "tabular.Tabular", **TABULAR})
        for name, datatype in ECHOES.items():
            self.add(name, "echo", {"implementation": "echo.Echo", **_signature(datatype)})
        pair = _signature("FP32", ("", "2"))
        self.add(PAIR, "echo", {"implementation": "echo.Echo", **pair})


def _signature(datatype: str, ends: tuple[str, ...] = ("",)) -> dict[str, Any]:
    return {
        side: [{"name": f"{tensor}{end}", "datatype": datatype, "shape": [-1, -1]} for end in ends]
        for side, tensor in (("inputs", "x"), ("outputs", "y"))
    }
