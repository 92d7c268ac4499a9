"""The requests to send: a file's, a golden example's, or made up; as bytes ready for a socket."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from salver.bench.figures import Format
from salver.bench.message import inputs_of, named
from salver.bench.synthesis import make_up
from salver.bench.target import Target
from salver.client.inference import JSON_LENGTH, PredictOptions, encode
from salver.core.errors import InvalidExample
from salver.core.rows import body_to_tensors, parse_document, rows_to_tensors, tensors_to_body
from salver.core.signature import Signature
from salver.core.tensor import Tensor

MAX_DISTINCT = 64
_MAX_BYTES = 256 * 1024 * 1024
_MAX_EXAMPLES = 64


@dataclass(frozen=True, slots=True)
class Body:
    """One request's body and what its headers say of it; over gRPC without the endpoint."""

    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Workload:
    """Bodies to send in turn, where they come from and how they are written."""

    bodies: tuple[Body, ...]
    source: str
    format: Format

    @property
    def mean_bytes(self) -> float:
        """Mean length of a body."""
        return sum(len(body.content) for body in self.bodies) / len(self.bodies)


def from_document(data: bytes, name: str, signature: Signature | None, form: Format) -> Workload:
    """Return one request with everything that a file holds: rows, CSV, or an OIP body.

    An OIP body is sent as it is as JSON; otherwise its tensors are.

    Raises ``InvalidExample`` and what does not fit the ``signature``, which rows need.
    """
    document = parse_document(data, name)
    source = f"file {name}"
    if isinstance(document, dict):
        as_it_is = form is Format.JSON
        body = _json(data) if as_it_is else _written(body_to_tensors(document), form)
        return Workload((body,), source, form)
    if signature is None:
        raise InvalidExample("rows need the model's signature; give an OIP body")
    return Workload((_written(rows_to_tensors(document, signature), form),), source, form)


def from_golden(data: bytes, version: str, form: Format) -> Workload:
    """Return a request for each golden example (JSON lines), at most ``MAX_DISTINCT``."""
    lines = [line for line in data.splitlines() if line.strip()][:_MAX_EXAMPLES]
    try:
        documents = [orjson.loads(line) for line in lines]
    except orjson.JSONDecodeError as error:
        raise InvalidExample(f"the golden examples of {version} are not JSON: {error}") from error
    bodies = [_written(body_to_tensors(document), form) for document in documents]
    if not bodies:
        raise InvalidExample(f"{version} has no golden example; give a file with a request")
    return Workload(tuple(bodies), f"golden example of {version}", form)


def from_signature(signature: Signature, rows: int, seed: int, form: Format) -> Workload:
    """Return made-up requests, as many different ones as fit into the bound on bytes."""
    generator = np.random.default_rng(seed)
    bodies = [_written(make_up(signature, rows, generator), form)]
    room = _MAX_BYTES // max(len(bodies[0].content), 1)
    more = range(min(MAX_DISTINCT, room) - 1)
    bodies += [_written(make_up(signature, rows, generator), form) for _ in more]
    source = f"made up from the signature, {rows} row{'s' * (rows != 1)} each"
    return Workload(tuple(bodies), source, form)


def wire(workload: Workload, target: Target, endpoint: str, api_key: str) -> list[bytes]:
    """Return whole requests: of HTTP/1.1, or gRPC's messages."""
    if workload.format is Format.GRPC:
        return [named(endpoint, body.content) for body in workload.bodies]
    path = f"{target.prefix}/v2/models/{endpoint}/infer"
    return [_request(body, target.authority, path, api_key) for body in workload.bodies]


def _request(body: Body, authority: str, path: str, api_key: str) -> bytes:
    headers = {"host": authority, **body.headers, "content-length": str(len(body.content))}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    if any(character in text for text in headers.values() for character in "\r\n\0"):
        raise InvalidExample("the key or the address holds a line break")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body.content


def _written(tensors: list[Tensor], form: Format) -> Body:
    if form is Format.GRPC:
        return Body({}, inputs_of(tensors))
    if form is Format.BINARY:
        content, json_length = encode(tensors, PredictOptions())
        headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(json_length)}
        return Body(headers, content)
    document: dict[str, Any] = {"inputs": tensors_to_body(tensors)}
    return _json(orjson.dumps(document))


def _json(content: bytes) -> Body:
    return Body({"content-type": "application/json"}, content)
