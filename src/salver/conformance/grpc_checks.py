"""Checks of the protocol's gRPC form, asked where an address was given for it."""

from collections.abc import Callable
from math import prod
from typing import Any

from salver.conformance.base import Failed, Level, NotApplicable, Section
from salver.conformance.grpc_client import OK, GrpcClient, Reply
from salver.conformance.grpc_messages import CONTENTS
from salver.conformance.outputs import Answer, Output
from salver.conformance.subject import UNKNOWN, Subject
from salver.conformance.tensors import BYTES, KNOWN, flat, pack, unpack

SECTION = Section("grpc", "gRPC")

_DOCUMENT = "Open Inference Protocol, open_inference_grpc.proto"

Check = Callable[[Subject], None]


def _check(heading: str, quote: str, level: Level = Level.REQUIRED) -> Callable[[Check], Check]:
    return SECTION.check(level, _DOCUMENT, heading, quote)


def _client(subject: Subject) -> GrpcClient:
    if subject.grpc is None:
        raise NotApplicable("no address was given with --grpc")
    return subject.grpc


def _ok(reply: Reply) -> Any:
    if reply.code != OK:
        raise Failed(f"status {reply.code} instead of OK ({reply.details:.200})")
    return reply.message


def _refused(reply: Reply) -> None:
    if reply.code == OK:
        raise Failed("status OK instead of an error")
    if reply.code == "UNIMPLEMENTED":
        raise Failed("the method is not implemented")


@_check("ServerLiveResponse", "True if the inference server is live, false if not live.")
def server_live(subject: Subject) -> None:
    """ServerLive answers that a running server is live."""
    if not _ok(_client(subject).call("ServerLive")).live:
        raise Failed("'live' is false")


@_check("ServerReadyResponse", "True if the inference server is ready, false if not ready.")
def server_ready(subject: Subject) -> None:
    """ServerReady answers that a ready server is ready."""
    if not _ok(_client(subject).call("ServerReady")).ready:
        raise Failed("'ready' is false")


@_check("ModelReadyResponse", "True if the model is ready, false if not ready.")
def model_ready(subject: Subject) -> None:
    """ModelReady answers that a ready model is ready."""
    if not _ok(_client(subject).call("ModelReady", name=subject.model)).ready:
        raise Failed("'ready' is false")


@_check("ModelReadyResponse", "false if not ready")
def unknown_not_ready(subject: Subject) -> None:
    """ModelReady of an unknown model is an error, or answers that it is not ready."""
    reply = _client(subject).call("ModelReady", name=UNKNOWN)
    if reply.code == OK and reply.message.ready:
        raise Failed("'ready' is true")


@_check("GRPCInferenceService", "The ServerMetadata API provides information about the server.")
def server_metadata(subject: Subject) -> None:
    """ServerMetadata gives the server's name."""
    if not _ok(_client(subject).call("ServerMetadata")).name:
        raise Failed("'name' is empty")


@_check("GRPCInferenceService", "The per-model metadata API provides information about a model.")
def model_metadata(subject: Subject) -> None:
    """ModelMetadata gives the model's name and its tensors, as the protocol defines them."""
    found = _ok(_client(subject).call("ModelMetadata", name=subject.model))
    if found.name != subject.model:
        raise Failed(f"'name' is {found.name!r} instead of {subject.model!r}")
    if not found.outputs:
        raise Failed("'outputs' is empty")
    for item in (*found.inputs, *found.outputs):
        if item.datatype not in KNOWN or any(size < -1 for size in item.shape):
            raise Failed(f"tensor {item.name!r} is {item.datatype} {list(item.shape)}")


@_check(
    "GRPCInferenceService",
    "The OK code indicates success and other codes indicate failure.",
)
def metadata_of_unknown(subject: Subject) -> None:
    """ModelMetadata of an unknown model is an error."""
    _refused(_client(subject).call("ModelMetadata", name=UNKNOWN))


def _tensors(subject: Subject, *, typed: bool) -> list[dict[str, Any]]:
    found = []
    for item in subject.good_request()["inputs"]:
        if "data" not in item:
            raise NotApplicable("the example holds inputs without data")
        tensor = {name: item[name] for name in ("name", "datatype", "shape")}
        if typed:
            if item["datatype"] not in CONTENTS:
                raise NotApplicable(f"{item['datatype']} has no typed contents")
            values = flat(item["data"])
            if item["datatype"] == BYTES:
                values = [str(value).encode() for value in values]
            tensor["contents"] = {CONTENTS[item["datatype"]]: values}
        found.append(tensor)
    if not found:
        raise NotApplicable("the model has no input")
    return found


def _raw(subject: Subject) -> list[bytes]:
    return [pack(item) for item in subject.good_request()["inputs"]]


def _infer(subject: Subject, model: str = "", **fields: Any) -> Reply:
    return _client(subject).call("ModelInfer", model_name=model or subject.model, **fields)


def _infer_raw(subject: Subject, raw: list[bytes] | None = None, **fields: Any) -> Reply:
    _client(subject)
    contents = _raw(subject) if raw is None else raw
    inputs = _tensors(subject, typed=False)
    return _infer(subject, inputs=inputs, raw_input_contents=contents, **fields)


def _outputs(message: Any) -> list[Output]:
    """Return the outputs of an answer, raw or typed; raises ``Failed`` if they do not add up."""
    raw = list(message.raw_output_contents)
    if raw and len(raw) != len(message.outputs):
        raise Failed(f"{len(message.outputs)} outputs, {len(raw)} raw contents")
    found = []
    for index, item in enumerate(message.outputs):
        data = unpack(item.datatype, raw[index]) if raw else _typed(item)
        shape = list(item.shape)
        if len(data) != prod(shape):
            raise Failed(f"output {item.name!r} has the shape {shape} and {len(data)} elements")
        found.append(Output(item.name, item.datatype, shape, data, None, bool(raw)))
    return found


def _typed(item: Any) -> list[Any]:
    if item.datatype not in CONTENTS:
        raise Failed(f"output {item.name!r} is {item.datatype}, which has no typed contents")
    values = list(getattr(item.contents, CONTENTS[item.datatype]))
    if item.datatype == BYTES:
        return [value.decode("utf-8", "replace") for value in values]
    return values


def _compare(subject: Subject, message: Any) -> None:
    """Demand what the same request gives over HTTP."""
    subject.demand_good(Answer({}, _outputs(message)))


@_check("ModelInferRequest", "'raw_input_contents' must be initialized with data for each tensor")
def raw_contents(subject: Subject) -> None:
    """Raw contents are answered like the same values over HTTP."""
    _compare(subject, _ok(_infer_raw(subject)))


@_check("ModelInferRequest", "in the repeated type that matches the tensor's data type")
def typed_contents(subject: Subject) -> None:
    """Typed contents are answered like the same values over HTTP."""
    _client(subject)
    _compare(subject, _ok(_infer(subject, inputs=_tensors(subject, typed=True))))


@_check("ModelInferRequest", "If specified will be returned in the response.")
def request_id(subject: Subject) -> None:
    """The request's id is in the answer."""
    found = _ok(_infer_raw(subject, id="grpc 7")).id
    if found != "grpc 7":
        raise Failed(f"'id' is {found!r} instead of 'grpc 7'")


@_check("ModelInferResponse", "The name of the model used for inference.")
def model_name(subject: Subject) -> None:
    """The answer names the model."""
    found = _ok(_infer_raw(subject)).model_name
    if found != subject.model:
        raise Failed(f"'model_name' is {found!r} instead of {subject.model!r}")


@_check("ModelInferRequest", "The requested output tensors for the inference.")
def chosen_outputs(subject: Subject) -> None:
    """With outputs, exactly the named ones are returned."""
    chosen = subject.good().outputs[-1].name
    names = [item.name for item in _ok(_infer_raw(subject, outputs=[{"name": chosen}])).outputs]
    if names != [chosen]:
        raise Failed(f"{[chosen]} is asked for, {names} is returned")


def _mixed(subject: Subject) -> Reply:
    _client(subject)
    inputs = _tensors(subject, typed=True)
    return _infer(subject, inputs=inputs, raw_input_contents=_raw(subject))


@_check("ModelInferRequest", "InferInputTensor::contents must not be specified for any input")
def mixed_contents(subject: Subject) -> None:
    """Raw and typed contents in one request are refused."""
    _refused(_mixed(subject))


def _short(subject: Subject) -> Reply:
    parts = _raw(subject)
    return _infer_raw(subject, [parts[0][:-1], *parts[1:]])


@_check("ModelInferRequest", "the size of this content must match what is expected")
def short_raw_contents(subject: Subject) -> None:
    """Raw contents of fewer bytes than shape and datatype need are refused."""
    _refused(_short(subject))


@_check("ModelInferRequest", "the size of this content must match what is expected")
def long_raw_contents(subject: Subject) -> None:
    """Raw contents of more bytes than shape and datatype need are refused."""
    parts = _raw(subject)
    _refused(_infer_raw(subject, [parts[0] + bytes(8), *parts[1:]]))


@_check("ModelInferRequest", "data for each tensor in the same order as 'inputs'")
def too_many_raw_contents(subject: Subject) -> None:
    """More raw contents than inputs are refused."""
    _refused(_infer_raw(subject, [*_raw(subject), b"more"]))


@_check("InferTensorContents", "The size must match what is expected by the tensor's shape.")
def short_typed_contents(subject: Subject) -> None:
    """Typed contents with fewer elements than the shape says are refused."""
    _client(subject)
    inputs = _tensors(subject, typed=True)
    ((name, values),) = inputs[0]["contents"].items()
    inputs[0]["contents"] = {name: values[:-1]}
    _refused(_infer(subject, inputs=inputs))


def _unknown(subject: Subject) -> Reply:
    _client(subject)
    inputs = _tensors(subject, typed=False)
    return _infer(subject, UNKNOWN, inputs=inputs, raw_input_contents=_raw(subject))


@_check("GRPCInferenceService", "other codes indicate failure")
def infer_unknown_model(subject: Subject) -> None:
    """ModelInfer of an unknown model is an error."""
    _refused(_unknown(subject))


@_check("GRPCInferenceService", "indicated by the google.rpc.Status returned", Level.RECOMMENDED)
def codes(subject: Subject) -> None:
    """What the caller got wrong is INVALID_ARGUMENT, an unknown model is NOT_FOUND."""
    for ask, wanted in (
        (_mixed, "INVALID_ARGUMENT"),
        (_short, "INVALID_ARGUMENT"),
        (_unknown, "NOT_FOUND"),
    ):
        found = ask(subject).code
        if found != wanted:
            raise Failed(f"status {found} instead of {wanted}")


@_check("ServerLiveResponse", "True if the inference server is live")
def still_answers(subject: Subject) -> None:
    """After wrong requests the right one is answered as before."""
    for ask in (_short, _unknown):
        ask(subject)
    _compare(subject, _ok(_infer_raw(subject)))
