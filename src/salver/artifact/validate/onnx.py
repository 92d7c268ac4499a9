"""ONNX graphs: external data stays inside, tensors hold what they declare, operators are known."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from salver.artifact.validate.base import model_file
from salver.core.errors import InvalidArtifact

_MAX_BYTES = 2 * 1024**3
_MAX_ELEMENTS = 1 << 40
_MAX_DEPTH = 32
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft")


def validate(folder: Path) -> None:
    """Check the graph and the external data of an ONNX artifact."""
    path = model_file(folder, (".onnx",))
    if path.stat().st_size > _MAX_BYTES:
        raise InvalidArtifact(f"{path.name} is over {_MAX_BYTES} bytes")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise InvalidArtifact(f"{path.name} is not an ONNX model: {error}") from error
    for item in model.opset_import:
        if item.domain not in _DOMAINS:
            raise InvalidArtifact(
                f"operators of {item.domain[:80]!r} are not known; only standard ones can be served"
            )
    if not model.graph.node:
        raise InvalidArtifact(f"{path.name} holds no graph")
    for tensor in _tensors(model.graph, _MAX_DEPTH):
        _tensor(tensor, folder)
    for function in model.functions:
        for node in function.node:
            for tensor in _node_tensors(node, _MAX_DEPTH):
                _tensor(tensor, folder)


def _tensors(graph: Any, depth: int) -> Iterator[Any]:
    if depth == 0:
        raise InvalidArtifact(f"the graph nests deeper than {_MAX_DEPTH}")
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node, depth)


def _node_tensors(node: Any, depth: int) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _tensors(attribute.g, depth - 1)
        for graph in attribute.graphs:
            yield from _tensors(graph, depth - 1)


def _tensor(tensor: Any, folder: Path) -> None:
    elements = 1
    for size in tensor.dims:
        if size < 0:
            raise InvalidArtifact(f"tensor {tensor.name[:80]!r} has a negative dimension")
        elements *= size
    if elements > _MAX_ELEMENTS:
        raise InvalidArtifact(f"tensor {tensor.name[:80]!r} declares {elements} elements")
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        _external(tensor, folder)


def _external(tensor: Any, folder: Path) -> None:
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    parts = location.split("/")
    if (
        not location
        or "\\" in location
        or "\0" in location
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise InvalidArtifact(
            f"external data of {tensor.name[:80]!r} lies at {location[:120]!r}, outside the folder"
        )
    path = folder.joinpath(*parts)
    try:
        status = os.lstat(path)
    except OSError as error:
        raise InvalidArtifact(f"external data {location[:120]!r} is missing") from error
    inside = path.resolve().is_relative_to(folder.resolve())
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or not inside:
        raise InvalidArtifact(
            f"external data {location[:120]!r} is not a regular file with one link"
        )
    offset, length = int(facts.get("offset", "0")), int(facts.get("length", "0"))
    if offset < 0 or length < 0 or offset + length > status.st_size:
        raise InvalidArtifact(f"external data {location[:120]!r} ends before {tensor.name[:80]!r}")
