"""The outputs of an inference answer, as JSON and as binary data."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from salver.conformance.base import Failed
from salver.conformance.demands import an_object, listing, ok, text
from salver.conformance.exchange import BrokenAnswer, Exchange, parse
from salver.conformance.tensors import flat, unpack

JSON_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Output:
    """One output; ``data`` is flat, ``given`` is how JSON held it."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]
    given: Any
    is_binary: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An inference answer's JSON object and its outputs."""

    document: dict[str, Any]
    outputs: list[Output]

    def output(self, name: str) -> Output:
        """Return one output; raises ``Failed`` if it is missing."""
        for output in self.outputs:
            if output.name == name:
                return output
        raise Failed(f"output {name!r} is missing")


def read_answer(exchange: Exchange) -> Answer:
    """Return what an answer with status 200 holds; raises ``Failed`` if it does not add up."""
    ok(exchange)
    try:
        return _read(exchange)
    except BrokenAnswer as error:
        raise Failed(str(error)) from error


def _read(exchange: Exchange) -> Answer:
    head, rest = _split(exchange)
    document = an_object(parse(head), "the body")
    found, at = [], 0
    for item in listing(document, "outputs"):
        output = an_object(item, "an output")
        size = _binary_size(output)
        raw = None if size is None else rest[at : at + size]
        if raw is not None and len(raw) != size:
            raise Failed(f"{size} bytes of binary data are announced, {len(raw)} are there")
        at += size or 0
        found.append(_output(output, raw))
    if at != len(rest):
        raise Failed(f"{len(rest) - at} bytes follow the binary data that is announced")
    return Answer(document, found)


def _split(exchange: Exchange) -> tuple[bytes, bytes]:
    length = exchange.headers.get(JSON_LENGTH.lower())
    if length is None:
        return exchange.body, b""
    if not length.isdigit() or int(length) > len(exchange.body):
        raise Failed(f"{JSON_LENGTH} is {length!r}, the body has {len(exchange.body)} bytes")
    return exchange.body[: int(length)], exchange.body[int(length) :]


def _binary_size(output: dict[str, Any]) -> int | None:
    parameters = output.get("parameters")
    if not isinstance(parameters, dict) or "binary_data_size" not in parameters:
        return None
    size = parameters["binary_data_size"]
    if not isinstance(size, int) or size < 0:
        raise Failed(f"binary_data_size is {size!r}, which is no size")
    return size


def _output(item: dict[str, Any], raw: bytes | None) -> Output:
    name, datatype = text(item, "name"), text(item, "datatype")
    shape = listing(item, "shape")
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise Failed(f"output {name!r} has the shape {shape}")
    given = None if raw is not None else listing(item, "data")
    data = flat(given) if raw is None else unpack(datatype, raw)
    if len(data) != prod(shape):
        raise Failed(f"output {name!r} has the shape {shape} and {len(data)} elements")
    _check_form(name, given, shape)
    return Output(name, datatype, shape, data, given, raw is not None)


def _check_form(name: str, given: Any, shape: list[int]) -> None:
    """Demand that nested data has the form of the shape; flat data has none."""
    if not isinstance(given, list) or not any(isinstance(part, list) for part in given):
        return
    levels: list[list[Any]] = [[given]]
    while all(isinstance(part, list) for part in levels[-1]) and levels[-1]:
        levels.append([item for part in levels[-1] for item in part])
    for (parts, _), size in zip(pairwise(levels), shape, strict=False):
        if any(len(part) != size for part in parts):
            raise Failed(f"the nested data of output {name!r} has not the form of {shape}")
    if len(levels) - 1 != len(shape):
        raise Failed(f"the nested data of output {name!r} has not the form of {shape}")
