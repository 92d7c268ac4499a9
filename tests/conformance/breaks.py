"""Defects that the suite must find, each with the check that is meant for it."""

from collections.abc import Callable
from typing import Any

from tests.conformance.broken_server import Break
from tests.conformance.oip_model import Reply


def leaves_out(check: str, *faults: str) -> Break:
    """Return a server that leaves out demands."""
    return Break(check, frozenset(faults))


def answers(route: str, check: str, edit: Callable[[Reply], object]) -> Break:
    """Return a server whose replies of one route are edited."""
    return Break(check, frozenset(), route, edit)


def status(number: int) -> Callable[[Reply], object]:
    """Return an edit of the status."""
    return lambda reply: setattr(reply, "status", number)


def body(data: bytes) -> Callable[[Reply], object]:
    """Return an edit of the whole body."""
    return lambda reply: setattr(reply, "body", data)


def header(name: str, value: str) -> Callable[[Reply], object]:
    """Return an edit of a header."""
    return lambda reply: reply.headers.update({name: value})


def sets(name: str, value: Any) -> Callable[[Reply], object]:
    """Return an edit of one member of the document."""
    return lambda reply: reply.document.update({name: value})


def drops(name: str) -> Callable[[Reply], object]:
    """Return an edit that takes a member away."""
    return lambda reply: reply.document.pop(name, None)


def tensor(side: str, name: str, value: Any) -> Callable[[Reply], object]:
    """Return an edit of the first tensor of a side."""
    return lambda reply: reply.document[side][0].update({name: value})


def _twice(reply: Reply) -> None:
    reply.document["outputs"].append(reply.document["outputs"][0])


def _element(datatype: str, value: Any) -> Callable[[Reply], object]:
    def edit(reply: Reply) -> None:
        for output in reply.document["outputs"]:
            if output["datatype"] == datatype and "data" in output:
                output["data"] = [value, *output["data"][1:]]

    return edit


def drop_length(reply: Reply) -> None:
    """Take the length of JSON away."""
    reply.headers.pop("Inference-Header-Content-Length", None)


def cut_raw(reply: Reply) -> None:
    """Take the last byte of the binary data away."""
    reply.raw = reply.raw[:-1]


def more_raw(reply: Reply) -> None:
    """Append bytes to the binary data."""
    reply.raw += b"more" if reply.raw else b""


def drop_id_of_binary(reply: Reply) -> None:
    """Take the id of a binary answer away."""
    if reply.raw and "id" in reply.document:
        length = int(reply.headers["Inference-Header-Content-Length"])
        size = len(f', "id": "{reply.document.pop("id")}"')
        reply.headers["Inference-Header-Content-Length"] = str(length - size)


SERVER = {
    "live says 503": answers("live", "server.live", status(503)),
    "live has no body": answers("live", "server.live_body", body(b"")),
    "live says false": answers("live", "server.live_body", sets("live", False)),
    "ready says 400": answers("ready", "server.ready", status(400)),
    "ready says nothing": answers("ready", "server.ready_body", drops("ready")),
    "server metadata are 404": answers("server", "server.metadata", status(404)),
    "server metadata are text": answers("server", "server.metadata", body(b"tiny 0")),
    "server metadata are a list": answers("server", "server.metadata", body(b"[]")),
    "server has no name": answers("server", "server.name", drops("name")),
    "server's name is empty": answers("server", "server.name", sets("name", "")),
    "server's version is a number": answers("server", "server.version", sets("version", 2)),
    "extensions are missing": answers("server", "server.extensions", drops("extensions")),
    "extensions hold numbers": answers("server", "server.extensions", sets("extensions", [1])),
    "metadata are text/html": answers(
        "server", "server.metadata_content_type", header("Content-Type", "text/html")
    ),
    "any path is answered": leaves_out("server.unknown_path", "unknown path"),
    "connections are closed": leaves_out("server.keep_alive", "closes"),
}
MODEL = {
    "model metadata are 500": answers("metadata", "model.metadata", status(500)),
    "model has another name": answers("metadata", "model.name", sets("name", "other")),
    "platform is missing": answers("metadata", "model.platform", drops("platform")),
    "inputs are missing": answers("metadata", "model.inputs", drops("inputs")),
    "an input has no name": answers("metadata", "model.inputs", tensor("inputs", "name", None)),
    "two inputs have one name": answers(
        "metadata", "model.inputs", tensor("inputs", "name", "in_fp32")
    ),
    "outputs are an object": answers("metadata", "model.outputs", sets("outputs", {})),
    "a datatype is numpy's": answers(
        "metadata", "model.datatypes", tensor("inputs", "datatype", "float32")
    ),
    "a shape is null": answers("metadata", "model.shapes", tensor("outputs", "shape", None)),
    "a variable dimension is -2": answers(
        "metadata", "model.shapes", tensor("inputs", "shape", [-2, 2])
    ),
    "versions are numbers": answers("metadata", "model.versions", sets("versions", [1])),
    "metadata of a version are 404": answers(
        "metadata of version", "model.metadata_of_version", status(404)
    ),
    "any model has metadata": leaves_out("model.unknown_model", "unknown model metadata"),
    "any version has metadata": leaves_out("model.unknown_version", "unknown version"),
    "errors are under another name": answers(
        "error", "model.unknown_model", lambda reply: setattr(reply, "document", {"detail": "no"})
    ),
    "errors are empty": answers("error", "model.unknown_version", sets("error", "")),
    "names are compared without case": leaves_out("model.name_case", "name case"),
    "a ready model is not ready": answers("model ready", "model.ready", status(503)),
    "a ready model says nothing": answers("model ready", "model.ready_body", body(b"{}")),
    "a ready model says another name": answers(
        "model ready", "model.ready_body", sets("name", "other")
    ),
    "a version is not ready": answers(
        "model ready of version", "model.ready_of_version", status(404)
    ),
    "an unknown model is ready": leaves_out("model.unknown_not_ready", "unknown model ready"),
}
INFER = {
    "inference is 202": answers("infer", "infer.answers", status(202)),
    "the answer is not JSON": answers("infer", "infer.answers", body(b"ok")),
    "the answer has NaN": answers("infer", "infer.answers", body(b'{"outputs": NaN}')),
    "outputs are missing": answers("infer", "infer.answers", drops("outputs")),
    "an output has no datatype": answers(
        "infer", "infer.answers", tensor("outputs", "datatype", None)
    ),
    "an output's shape is not its data's": answers(
        "infer", "infer.answers", tensor("outputs", "shape", [3, 2])
    ),
    "an output's nested form is not its shape": answers(
        "infer", "infer.answers", tensor("outputs", "data", [[True], [False]])
    ),
    "model_name is missing": answers("infer", "infer.model_name", drops("model_name")),
    "model_name is another": answers("infer", "infer.model_name", sets("model_name", "other")),
    "model_version is a number": answers("infer", "infer.model_version", sets("model_version", 1)),
    "model_version is unknown": answers("infer", "infer.model_version", sets("model_version", "7")),
    "an output is missing": answers(
        "infer", "infer.all_outputs", lambda reply: reply.document["outputs"].pop()
    ),
    "the choice of outputs is ignored": leaves_out("infer.chosen_outputs", "ignores outputs"),
    "an output comes twice": answers("infer", "infer.all_outputs", _twice),
    "an output has another datatype": answers(
        "infer", "infer.output_datatypes", tensor("outputs", "datatype", "UINT8")
    ),
    "an output lost a dimension": answers(
        "infer", "infer.output_shapes", tensor("outputs", "shape", [2])
    ),
    "an output is turned": answers(
        "infer", "infer.output_shapes", tensor("outputs", "shape", [2, 1])
    ),
    "the id is dropped": answers("infer", "infer.request_id", drops("id")),
    "the id is the server's": answers("infer", "infer.request_id", sets("id", "42")),
    "the id is a number where none was sent": answers(
        "infer", "infer.no_request_id", lambda reply: reply.document.setdefault("id", 7)
    ),
    "flat data is refused": leaves_out("infer.flat_data", "refuses flat"),
    "nested data is refused": leaves_out("infer.nested_data", "refuses nested"),
    "nested data is read backwards": leaves_out("infer.nested_data", "nested backwards"),
    "empty parameters are refused": leaves_out(
        "infer.empty_parameters", "refuses empty parameters"
    ),
    "parameters are refused": leaves_out("infer.unknown_parameters", "refuses parameters"),
    "requests without a type are refused": leaves_out("infer.no_content_type", "wants a type"),
    "unknown fields are refused": leaves_out("infer.unknown_fields", "refuses unknown fields"),
    "a version's inference is 404": answers("infer of version", "infer.version_path", status(404)),
    "another version answers": answers(
        "infer of version", "infer.version_path", sets("model_version", "2")
    ),
    "answers are text/plain": answers(
        "infer", "infer.answer_content_type", header("Content-Type", "text/plain")
    ),
}
DATATYPE = {
    "BOOL is 1": answers("infer", "datatype.bool", _element("BOOL", 1)),
    "UINT8 is 256": answers("infer", "datatype.uint8", _element("UINT8", 256)),
    "UINT16 is -1": answers("infer", "datatype.uint16", _element("UINT16", -1)),
    "UINT32 is null": answers("infer", "datatype.uint32", _element("UINT32", None)),
    "UINT64 is 1.5": answers("infer", "datatype.uint64", _element("UINT64", 1.5)),
    "INT8 is 128": answers("infer", "datatype.int8", _element("INT8", 128)),
    "INT16 is true": answers("infer", "datatype.int16", _element("INT16", True)),
    "INT32 is text": answers("infer", "datatype.int32", _element("INT32", "1")),
    "INT64 is text": answers("infer", "datatype.int64", _element("INT64", "1")),
    "FP16 is text": answers("infer", "datatype.fp16", _element("FP16", "1.0")),
    "FP32 is text": answers("infer", "datatype.fp32", _element("FP32", "NaN")),
    "FP64 is false": answers("infer", "datatype.fp64", _element("FP64", False)),
    "BYTES is a number": answers("infer", "datatype.bytes", _element("BYTES", 1)),
    "text is a number": leaves_out("datatype.fp32", "element FP32"),
    "an object is text": leaves_out("datatype.bytes", "element BYTES"),
    "integers wrap": leaves_out("datatype.integer_overflow", "overflow"),
}
