"""Servers of sentence vectors: text in, tokenizing included, one compute thread each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from bench.environments import BENCH, environment, site_packages
from bench.offered import Contestant
from bench.processes import Group
from bench.servers.base import JSON, Server
from bench.servers.mlserver import MLServer
from bench.servers.salver import Salver
from bench.servers.triton import Triton
from bench.wire_http import Target, free_port
from bench.workspace import Workspace

OBJECTIVE_MS = 1000
OUTPUT = "sentence_embedding"
STEPS = {"before": [{"step": "tokenize", "column": "text", "outputs": {"types": "token_type_ids"}}]}
TRITON_CONFIG = """\
backend: "python"
max_batch_size: %d
input [ { name: "text", data_type: TYPE_STRING, dims: [ %s ] } ]
output [ { name: "sentence_embedding", data_type: TYPE_FP32, dims: [ %s ] } ]
instance_group [ { kind: KIND_CPU, count: 1 } ]
%s
"""


def oip_body(text: str) -> bytes:
    """Return one text as an Open Inference Protocol request."""
    entry = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return json.dumps({"inputs": [entry]}).encode()


def plain_body(text: str) -> bytes:
    """Return one text as LitServe takes it."""
    return json.dumps({"text": text}).encode()


def bodies(workspace: Workspace) -> tuple[Path, Path]:
    """Write all texts in both forms, one body a line."""
    found = []
    texts = json.loads((workspace.real / "texts.json").read_text())
    for name, made in (("texts-oip", oip_body), ("texts-plain", plain_body)):
        file = workspace.run / f"{name}.jsonl"
        if not file.is_file():
            file.write_bytes(b"\n".join(made(text) for text in texts))
        found.append(file)
    return found[0], found[1]


def variables(workspace: Workspace) -> dict[str, str]:
    """Return what the peers' models read."""
    return {
        "BENCH_TEXT_MODEL": str(workspace.real / "minilm"),
        "BENCH_TEXT_PACKAGES": str(site_packages(environment("real-models"))),
    }


class TextServer(Server):
    """What the text part needs of a server."""

    def contestants(self) -> list[Contestant]:
        """Return the ways in which this server answers."""
        raise NotImplementedError(self.name)

    def probe(self) -> tuple[Target, bytes, dict[str, str]]:
        """Ask the first contestant, the last to be there where there are several."""
        return self.contestants()[-1].target, oip_body("Is anybody there?"), JSON

    def _oip(self, name: str, target: Target) -> Contestant:
        return Contestant(name, target, JSON, bodies(self.workspace)[0], one_a_line=True)


class SalverText(TextServer, Salver):
    """One model behind endpoints that differ in how they put batches together."""

    deploys: ClassVar[dict[str, tuple[str, ...]]] = {
        "salver": (),
        "salver-small": ("--max-batch-size", "8", "--max-padding", "0.05"),
        "salver-adaptive": (
            *("--batching", "adaptive", "--objective", str(OBJECTIVE_MS)),
            *("--max-batch-size", "16", "--max-padding", "0.05"),
        ),
    }

    def fill(self) -> None:
        """Push the model with its tokenizer, and deploy it."""
        steps, example = self.folder / "steps.json", self.folder / "example.json"
        steps.write_text(json.dumps(STEPS))
        texts = ["Is anybody there?", "The quick brown fox jumps over the lazy dog."]
        entry = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": texts}
        example.write_text(json.dumps({"inputs": [entry]}))
        # A version has one policy on a worker, so each policy gets a model of its own.
        for name, options in self.deploys.items():
            self.command(
                "push", str(self.workspace.real / "minilm"), "--name", name,
                "--steps", str(steps), "--example", str(example),
            )  # fmt: skip
            self.command("deploy", f"{name}:1", *options)

    def contestants(self) -> list[Contestant]:
        """Return one for each endpoint."""
        return [self._oip(name, self.endpoint(name)) for name in self.deploys]


class TritonText(TextServer, Triton):
    """Dynamic batching as it comes, with small batches, and none."""

    variants: ClassVar[dict[str, tuple[int, str]]] = {
        "triton-dynamic": (64, "dynamic_batching { }"),
        "triton-dynamic-4": (4, "dynamic_batching { }"),
        "triton-alone": (0, ""),
    }

    def fill(self) -> None:
        """Write a model for each variant."""
        for name, (size, batching) in self.variants.items():
            dims = ("1", "384") if size else ("-1, 1", "-1, 384")
            config = f'name: "{name}"\n' + TRITON_CONFIG % (size, *dims, batching)
            self.add(name, BENCH / "peers" / "triton" / "text.py", config)

    def environment(self) -> dict[str, str]:
        """Variables that the model reads."""
        return variables(self.workspace)

    def contestants(self) -> list[Contestant]:
        """Return one for each variant."""
        return [self._oip(name, self.model(name)) for name in self.variants]


class MLServerText(TextServer, MLServer):
    """Adaptive batching, which merges what comes within a time."""

    variants: ClassVar[dict[str, dict[str, float]]] = {
        "mlserver": {"max_batch_size": 32, "max_batch_time": 0.05},
    }

    def fill(self) -> None:
        """Write a model for each variant."""
        for name, settings in self.variants.items():
            self.add(name, "text", {"implementation": "text.Text", **settings})

    def environment(self) -> dict[str, str]:
        """Variables that the model reads."""
        return variables(self.workspace)

    def contestants(self) -> list[Contestant]:
        """Return one for each variant."""
        return [self._oip(name, self.model(name)) for name in self.variants]


class LitServeText(TextServer):
    """LitServe with batching."""

    name = "litserve"
    size, timeout_s = 32, 0.05
    _port = 0
    _python = Path()

    def provision(self) -> None:
        """Make the environment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._python = environment("litserve") / "bin" / "python"

    def launch(self) -> None:
        """Start the server."""
        self._port = free_port()
        code = BENCH / "peers" / "litserve" / "text.py"
        arguments = [str(self._port), str(self.size), str(self.timeout_s)]
        command: list[str | Path] = [self._python, code, *arguments]
        self.spawn(Group(command, self.folder / "server.log", variables(self.workspace)))

    def tabular(self) -> Target:
        """LitServe is measured with texts only."""
        raise NotImplementedError(self.name)

    def contestants(self) -> list[Contestant]:
        """Return the one way it has."""
        target = Target(self._port, "/predict")
        file = bodies(self.workspace)[1]
        return [Contestant("litserve", target, JSON, file, one_a_line=True)]

    def probe(self) -> tuple[Target, bytes, dict[str, str]]:
        """Ask in LitServe's own form."""
        return self.contestants()[0].target, plain_body("Is anybody there?"), JSON


TEXT_SERVERS: dict[str, type[TextServer]] = {
    server.name: server for server in (SalverText, TritonText, MLServerText, LitServeText)
}
