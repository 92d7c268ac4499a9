"""Predictions over the data port, with tensors as raw bytes behind the JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec
import orjson

from salver.client.calls import DATA, Call, Reply, Steps, check, json_bytes, json_of
from salver.client.inputs import Inputs, needs_signature, to_tensors
from salver.core.errors import Internal
from salver.core.names import check_name
from salver.core.rows import tensors_to_rows
from salver.core.signature import Column, Signature, TensorSpec
from salver.core.tensor import AnyArray, Tensor

JSON_LENGTH = "inference-header-content-length"
REQUEST_ID = "x-salver-request-id"


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What may be said of a prediction besides its inputs."""

    version: str | None = None
    outputs: tuple[str, ...] | None = None
    request_id: str | None = None
    parameters: Mapping[str, Any] | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer: arrays by output name, who gave it, and what the server says beside it."""

    model: str
    version: str
    request_id: str
    tensors: tuple[Tensor, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, AnyArray]:
        """The arrays by output name; text outputs are arrays of ``bytes``."""
        return {tensor.name: tensor.array() for tensor in self.tensors}

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary for each row, in plain Python values."""
        return tensors_to_rows(list(self.tensors))


def predict(endpoint: str, inputs: Inputs, options: PredictOptions) -> Steps[Prediction]:
    """Ask an endpoint; rows and frames are laid out by the signature, fetched when needed."""
    path = _model_path(endpoint, options.version)
    signature = (yield from metadata(path)) if needs_signature(inputs) else None
    tensors = to_tensors(inputs, signature)
    body, json_length = encode(tensors, options)
    headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(json_length)}
    reply = yield Call("POST", DATA, f"{path}/infer", headers, body, options.timeout_s)
    return decode(reply)


def metadata(path: str) -> Steps[Signature]:
    """Fetch the signature of an endpoint."""
    document = json_of((yield Call("GET", DATA, path)))
    return Signature(
        tuple(_spec(item) for item in document["inputs"]),
        tuple(_spec(item) for item in document["outputs"]),
    )


def encode(tensors: list[Tensor], options: PredictOptions) -> tuple[bytes, int]:
    """Return the body of a binary request and the length of its JSON part."""
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": tensor.size_bytes},
            }
            for tensor in tensors
        ],
        "parameters": {"binary_data_output": True, **(options.parameters or {})},
    }
    if options.request_id is not None:
        document["id"] = options.request_id
    if options.outputs is not None:
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": True}} for name in options.outputs
        ]
    head = json_bytes(document)
    return b"".join((head, *(tensor.buffer for tensor in tensors))), len(head)


def decode(reply: Reply) -> Prediction:
    """Read an answer; its tensors are views into the reply's body."""
    check(reply)
    json_length = int(reply.headers.get(JSON_LENGTH, len(reply.body)))
    try:
        document = orjson.loads(reply.body[:json_length])
        tensors = _tensors(document["outputs"], memoryview(reply.body)[json_length:])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Internal("the server's answer is not an inference response") from error
    return Prediction(
        document.get("model_name", ""),
        document.get("model_version", ""),
        reply.headers.get(REQUEST_ID, ""),
        tuple(tensors),
        document.get("parameters", {}),
    )


def _tensors(outputs: list[dict[str, Any]], rest: memoryview) -> list[Tensor]:
    tensors: list[Tensor] = []
    position = 0
    for output in outputs:
        size = int(output["parameters"]["binary_data_size"])
        tensor = Tensor(
            output["name"],
            output["datatype"],
            tuple(output["shape"]),
            rest[position : position + size],
        )
        tensor.check()
        tensors.append(tensor)
        position += size
    return tensors


def _spec(item: dict[str, Any]) -> TensorSpec:
    parameters = item.get("parameters", {})
    return TensorSpec(
        item["name"],
        item["datatype"],
        tuple(int(size) for size in item["shape"]),
        msgspec.convert(parameters.get("columns", []), tuple[Column, ...]),
        bool(parameters.get("optional", False)),
    )


def _model_path(endpoint: str, version: str | None) -> str:
    path = f"/v2/models/{check_name(endpoint, 'endpoint')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"
