"""Checks of the binary tensor extension."""

from collections.abc import Callable
from typing import Any

from salver.conformance.base import Failed, Level, NotApplicable, Section
from salver.conformance.demands import callers_fault, refused
from salver.conformance.outputs import JSON_LENGTH, read_answer
from salver.conformance.subject import Subject
from salver.conformance.tensors import BYTES, pack

SECTION = Section("binary", "Binary tensor extension")

_NAMES = ("binary_tensor_data",)
_DOCUMENT = "Triton, extension_binary_data.md"
_HEADING = "Binary Tensor Data Extension"
_SIZE = "indicating the size of the tensor binary data, in bytes"
_LENGTH = "to give the length of the JSON object"

Check = Callable[[Subject], None]


def _check(quote: str) -> Callable[[Check], Check]:
    return SECTION.check(Level.EXTENSION, _DOCUMENT, _HEADING, quote)


def _binary(subject: Subject) -> tuple[dict[str, Any], list[bytes]]:
    """Return the good request with every input as binary data, and the data of each."""
    subject.extension(*_NAMES)
    document = subject.good_request()
    parts = []
    for item in document["inputs"]:
        if "data" not in item:
            raise NotApplicable("the example holds inputs without data")
        parts.append(pack(item))
        del item["data"]
        size = {"binary_data_size": len(parts[-1])}
        item["parameters"] = {**item.get("parameters", {}), **size}
    if not parts:
        raise NotApplicable("the model has no input")
    return document, parts


@_check("The binary data for a tensor is delivered in the HTTP body after the JSON object")
def inputs(subject: Subject) -> None:
    """Binary inputs are answered like the same values as JSON."""
    document, parts = _binary(subject)
    subject.demand_good(read_answer(subject.infer_binary(document, b"".join(parts))))


@_check("in the same order as the order of the input or output tensors are specified in the JSON")
def mixed_inputs(subject: Subject) -> None:
    """One input, the last or the first, may be binary while the others are JSON."""
    document, parts = _binary(subject)
    if len(parts) == 1:
        raise NotApplicable("the model has one input only")
    binary = document["inputs"]
    for chosen in (-1, 0):
        document["inputs"] = subject.good_request()["inputs"]
        document["inputs"][chosen] = binary[chosen]
        subject.demand_good(read_answer(subject.infer_binary(document, parts[chosen])))


@_check("false (or not given) if the tensor should be returned as JSON")
def default_is_json(subject: Subject) -> None:
    """Outputs are JSON where nobody asked for binary data, also when the inputs were binary."""
    document, parts = _binary(subject)
    answer = read_answer(subject.infer_binary(document, b"".join(parts)))
    if any(output.is_binary for output in answer.outputs):
        raise Failed("an output is binary data although nobody asked for that")


@_check("true if the output should be returned as binary data")
def one_output(subject: Subject) -> None:
    """An output's "binary_data" gives that output as binary data."""
    subject.extension(*_NAMES)
    document = subject.good_request()
    chosen = subject.good().outputs[-1]
    document["outputs"] = [{"name": chosen.name, "parameters": {"binary_data": True}}]
    answer = read_answer(subject.infer(document))
    if not answer.output(chosen.name).is_binary:
        raise Failed(f"output {chosen.name!r} is no binary data although it was asked for")


@_check("true if all outputs should be returned as binary data")
def all_outputs(subject: Subject) -> None:
    """The request's "binary_data_output" gives every output as binary data."""
    answer = read_answer(subject.infer(_all_binary(subject)))
    if not all(output.is_binary for output in answer.outputs):
        raise Failed("an output is JSON although all were asked for as binary data")
    subject.demand_good(answer)


def _all_binary(subject: Subject) -> dict[str, Any]:
    subject.extension(*_NAMES)
    document = subject.good_request()
    document["parameters"] = {**document.get("parameters", {}), "binary_data_output": True}
    return document


@_check('If "binary_data" is specified on an output it overrides this setting.')
def output_overrides(subject: Subject) -> None:
    """An output's "binary_data" as false wins over "binary_data_output" of the request."""
    document = _all_binary(subject)
    chosen = subject.good().outputs[0].name
    document["outputs"] = [{"name": chosen, "parameters": {"binary_data": False}}]
    if read_answer(subject.infer(document)).output(chosen).is_binary:
        raise Failed(f"output {chosen!r} is binary data although it was asked for as JSON")


@_check("the Inference-Header-Content-Length header must be provided")
def answer_length(subject: Subject) -> None:
    """An answer with binary data says how long its JSON is."""
    exchange = subject.infer(_all_binary(subject))
    read_answer(exchange)
    if JSON_LENGTH.lower() not in exchange.headers:
        raise Failed(f"the answer has no {JSON_LENGTH}")


@_check("the JSON inference request or response object followed by the binary tensor data")
def request_id(subject: Subject) -> None:
    """The request's "id" is in the JSON of a binary answer too."""
    answer = read_answer(subject.infer({**_all_binary(subject), "id": "binary 7"}))
    if answer.document.get("id") != "binary 7":
        raise Failed(f"'id' is {answer.document.get('id')!r} instead of 'binary 7'")


@_check(_SIZE)
def size_below_shape(subject: Subject) -> None:
    """Fewer bytes than the shape needs are refused, although the sizes add up."""
    document, parts = _binary(subject)
    if len(parts[0]) < 1:
        raise NotApplicable("the first input has no elements")
    document["inputs"][0]["parameters"]["binary_data_size"] = len(parts[0]) - 1
    refused(subject.infer_binary(document, b"".join([parts[0][:-1], *parts[1:]])))


@_check(_SIZE)
def size_above_shape(subject: Subject) -> None:
    """More bytes than the shape needs are refused, although the sizes add up."""
    document, parts = _binary(subject)
    document["inputs"][0]["parameters"]["binary_data_size"] = len(parts[0]) + 8
    refused(subject.infer_binary(document, b"".join([parts[0], bytes(8), *parts[1:]])))


@_check(_SIZE)
def size_past_end(subject: Subject) -> None:
    """A size that goes past the end of the body is refused."""
    document, parts = _binary(subject)
    document["inputs"][-1]["parameters"]["binary_data_size"] = len(parts[-1]) + 1000
    refused(subject.infer_binary(document, b"".join(parts)))


@_check(_SIZE)
def negative_size(subject: Subject) -> None:
    """A negative size is refused."""
    document, parts = _binary(subject)
    document["inputs"][0]["parameters"]["binary_data_size"] = -len(parts[0])
    refused(subject.infer_binary(document, b"".join(parts)))


@_check("Content-Length continues to give the full body length")
def bytes_left(subject: Subject) -> None:
    """Bytes that belong to no tensor are refused."""
    document, parts = _binary(subject)
    refused(subject.infer_binary(document, b"".join([*parts, b"left over"])))


@_check(_LENGTH)
def length_past_end(subject: Subject) -> None:
    """A length of JSON over that of the body is refused."""
    document, parts = _binary(subject)
    refused(subject.infer_binary(document, b"".join(parts), "99999999"))


@_check(_LENGTH)
def length_no_number(subject: Subject) -> None:
    """A length of JSON that is no number is refused."""
    document, parts = _binary(subject)
    refused(subject.infer_binary(document, b"".join(parts), "twelve"))


@_check(_LENGTH)
def length_inside_json(subject: Subject) -> None:
    """A length that ends inside the JSON is refused."""
    document, parts = _binary(subject)
    refused(subject.infer_binary(document, b"".join(parts), "5"))


@_check("a 4-byte unsigned integer giving the length followed by the actual bytes")
def bytes_past_end(subject: Subject) -> None:
    """A BYTES element that says it is longer than its tensor is refused."""
    document, parts = _binary(subject)
    for index, item in enumerate(document["inputs"]):
        if item["datatype"] == BYTES and parts[index]:
            parts[index] = b"\xff\xff\xff\x7f" + parts[index][4:]
            exchange = subject.infer_binary(document, b"".join(parts))
            refused(exchange)
            callers_fault(exchange)
            return
    raise NotApplicable("the model has no BYTES input")
