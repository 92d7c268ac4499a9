"""Servers of the image classifier: one image of 602 KB per request, one compute thread each."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, ClassVar

from bench.environments import BENCH
from bench.offered import Contestant
from bench.servers.base import JSON, Server
from bench.servers.mlserver import MLServer
from bench.servers.salver import Salver
from bench.servers.triton import Triton
from bench.wire_http import Target
from bench.workspace import Workspace

SHAPE = (1, 224, 224, 3)
MAX_WAIT_MS = 200.0
"""What Salver lets requests wait for room, which is its default with `limits.adaptive`."""
TRITON_CONFIG = """\
name: "%s"
backend: "python"
max_batch_size: %d
input [ { name: "%s", data_type: TYPE_FP32, dims: [ %s224, 224, 3 ] } ]
output [ { name: "%s", data_type: TYPE_FP32, dims: [ %s2 ] } ]
instance_group [ { kind: KIND_CPU, count: 1 } ]
%s
"""
LIMITED = """\
dynamic_batching {
  default_queue_policy {
    max_queue_size: 8
    timeout_action: REJECT
    default_timeout_microseconds: 200000
  }
}
"""


def known(workspace: Workspace) -> tuple[str, dict[str, list[float]]]:
    """Return the name of the model's input, and its outputs for the image."""
    document = json.loads((workspace.real / "image.json").read_text())
    return document["input"], document["outputs"]


def binary_body(workspace: Workspace) -> tuple[Path, dict[str, str]]:
    """Write the image as a request in the binary tensor extension; returns its headers too."""
    image = (workspace.real / "image.bin").read_bytes()
    entry: dict[str, Any] = {"name": known(workspace)[0], "shape": SHAPE, "datatype": "FP32"}
    entry["parameters"] = {"binary_data_size": len(image)}
    head = json.dumps({"inputs": [entry]}).encode()
    file = workspace.run / "image-binary.bin"
    file.write_bytes(head + image)
    kind = {"Content-Type": "application/octet-stream"}
    return file, {**kind, "Inference-Header-Content-Length": str(len(head))}


def base64_body(workspace: Workspace) -> Path:
    """Write the image as base64 inside JSON, for a server without the binary extension."""
    text = base64.b64encode((workspace.real / "image.bin").read_bytes()).decode()
    entry = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    file = workspace.run / "image-base64.json"
    file.write_text(json.dumps({"inputs": [entry]}))
    return file


class ImageServer(Server):
    """What the image and overload parts need of a server."""

    def contestants(self) -> list[Contestant]:
        """Return the ways in which this server answers."""
        raise NotImplementedError(self.name)

    def probe(self) -> tuple[Target, bytes, dict[str, str]]:
        """Ask the last contestant."""
        last = self.contestants()[-1]
        return last.target, last.bodies.read_bytes(), last.headers


class SalverImage(ImageServer, Salver):
    """With the learned limit on, and batches of what pays."""

    settings: ClassVar[dict[str, dict[str, Any]]] = {"limits": {"adaptive": True}}

    def fill(self) -> None:
        """Push and deploy the model."""
        self.command("push", str(self.workspace.real / "nsfw.onnx"), "--name", "image")
        self.command("deploy", "image:1", "--batching", "adaptive")

    def contestants(self) -> list[Contestant]:
        """Return the endpoint."""
        body, headers = binary_body(self.workspace)
        return [Contestant("salver", self.endpoint("image"), headers, body)]


class TritonImage(ImageServer, Triton):
    """As it comes, where nothing bounds the queue, and with a bounded one."""

    def fill(self) -> None:
        """Write a model for each variant."""
        name, outputs = known(self.workspace)
        for label, size, batching in (("triton", 0, ""), ("triton-limited", 1, LIMITED)):
            rows = "" if size else "-1, "
            values = (label, size, name, rows, next(iter(outputs)), rows, batching)
            self.add(label, BENCH / "peers" / "triton" / "image.py", TRITON_CONFIG % values)

    def environment(self) -> dict[str, str]:
        """Variables that the model reads."""
        return {"BENCH_IMAGE_MODEL": str(self.workspace.real / "nsfw.onnx")}

    def contestants(self) -> list[Contestant]:
        """Return one for each variant."""
        body, headers = binary_body(self.workspace)
        names = ("triton", "triton-limited")
        return [Contestant(name, self.model(name), headers, body) for name in names]


class MLServerImage(ImageServer, MLServer):
    """As it comes; the image is base64, since it has no binary tensors over HTTP."""

    def fill(self) -> None:
        """Write the model."""
        self.add("image", "image", {"implementation": "image.Image"})

    def environment(self) -> dict[str, str]:
        """Variables that the model reads."""
        return {"BENCH_IMAGE_MODEL": str(self.workspace.real / "nsfw.onnx")}

    def contestants(self) -> list[Contestant]:
        """Return the one way it has."""
        body = base64_body(self.workspace)
        return [Contestant("mlserver", self.model("image"), JSON, body)]


IMAGE_SERVERS: dict[str, type[ImageServer]] = {
    server.name: server for server in (SalverImage, TritonImage, MLServerImage)
}
