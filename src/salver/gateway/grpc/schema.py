"""The messages of the services, by field number, as their public definitions number them.

Kept as a table instead of generated code: it says the same in a fifth of the lines, needs no
compiler, and is what server reflection hands out.
"""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = tuple[str, int, str]
Messages = dict[str, tuple[Field, ...]]

# A type is a scalar's or a message's name; ``*`` before it means repeated, ``%`` a map from text to
# it, ``|`` that the field is one of a choice.
INFERENCE: Messages = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": (("live", 1, "bool"),),
    "ServerReadyRequest": (),
    "ServerReadyResponse": (("ready", 1, "bool"),),
    "ModelReadyRequest": (("name", 1, "string"), ("version", 2, "string")),
    "ModelReadyResponse": (("ready", 1, "bool"),),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (
        ("name", 1, "string"),
        ("version", 2, "string"),
        ("extensions", 3, "*string"),
    ),
    "ModelMetadataRequest": (("name", 1, "string"), ("version", 2, "string")),
    "ModelMetadataResponse": (
        ("name", 1, "string"),
        ("versions", 2, "*string"),
        ("platform", 3, "string"),
        ("inputs", 4, "*ModelMetadataResponse.TensorMetadata"),
        ("outputs", 5, "*ModelMetadataResponse.TensorMetadata"),
    ),
    "ModelMetadataResponse.TensorMetadata": (
        ("name", 1, "string"),
        ("datatype", 2, "string"),
        ("shape", 3, "*int64"),
    ),
    "InferParameter": (
        ("bool_param", 1, "|bool"),
        ("int64_param", 2, "|int64"),
        ("string_param", 3, "|string"),
        ("double_param", 4, "|double"),
        ("uint64_param", 5, "|uint64"),
    ),
    "InferTensorContents": (
        ("bool_contents", 1, "*bool"),
        ("int_contents", 2, "*int32"),
        ("int64_contents", 3, "*int64"),
        ("uint_contents", 4, "*uint32"),
        ("uint64_contents", 5, "*uint64"),
        ("fp32_contents", 6, "*float"),
        ("fp64_contents", 7, "*double"),
        ("bytes_contents", 8, "*bytes"),
    ),
    "ModelInferRequest": (
        ("model_name", 1, "string"),
        ("model_version", 2, "string"),
        ("id", 3, "string"),
        ("parameters", 4, "%InferParameter"),
        ("inputs", 5, "*ModelInferRequest.InferInputTensor"),
        ("outputs", 6, "*ModelInferRequest.InferRequestedOutputTensor"),
        ("raw_input_contents", 7, "*bytes"),
    ),
    "ModelInferRequest.InferInputTensor": (
        ("name", 1, "string"),
        ("datatype", 2, "string"),
        ("shape", 3, "*int64"),
        ("parameters", 4, "%InferParameter"),
        ("contents", 5, "InferTensorContents"),
    ),
    "ModelInferRequest.InferRequestedOutputTensor": (
        ("name", 1, "string"),
        ("parameters", 2, "%InferParameter"),
    ),
    "ModelInferResponse": (
        ("model_name", 1, "string"),
        ("model_version", 2, "string"),
        ("id", 3, "string"),
        ("parameters", 4, "%InferParameter"),
        ("outputs", 5, "*ModelInferResponse.InferOutputTensor"),
        ("raw_output_contents", 6, "*bytes"),
    ),
    "ModelInferResponse.InferOutputTensor": (
        ("name", 1, "string"),
        ("datatype", 2, "string"),
        ("shape", 3, "*int64"),
        ("parameters", 4, "%InferParameter"),
        ("contents", 5, "InferTensorContents"),
    ),
}
HEALTH: Messages = {
    "HealthCheckRequest": (("service", 1, "string"),),
    "HealthCheckResponse": (("status", 1, "int32"),),
}

Service = dict[str, tuple[str, str]]

INFERENCE_CALLS: Service = {
    name: (f"{name}Request", f"{name}Response")
    for name in (
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
    )
}
HEALTH_CALLS: Service = {"Check": ("HealthCheckRequest", "HealthCheckResponse")}

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _FIELD.TYPE_BOOL,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
    "float": _FIELD.TYPE_FLOAT,
    "double": _FIELD.TYPE_DOUBLE,
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
}


def file_of(name: str, package: str, messages: Messages, service: str, calls: Service) -> Any:
    """Return the description of a file with messages and one service."""
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    made: dict[str, Any] = {}
    for path, fields in messages.items():
        outer, _, own = path.rpartition(".")
        message = made[outer].nested_type.add() if outer else file.message_type.add()
        made[path] = message
        message.name = own
        for field in fields:
            _add_field(message, package, path, field)
    described = file.service.add(name=service)
    for call, (request, response) in calls.items():
        described.method.add(
            name=call, input_type=f".{package}.{request}", output_type=f".{package}.{response}"
        )
    return file


def _add_field(message: Any, package: str, path: str, field: Field) -> None:
    name, number, kind = field
    mark, kind = (kind[0], kind[1:]) if kind[0] in "*%|" else ("", kind)
    added = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if mark in ("*", "%"):
        added.label = _FIELD.LABEL_REPEATED
    if mark == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        added.oneof_index = 0
    if mark == "%":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, package, f"{path}.{entry.name}", ("key", 1, "string"))
        _add_field(entry, package, f"{path}.{entry.name}", ("value", 2, kind))
        kind = f"{path}.{entry.name}"
    if kind in _SCALARS:
        added.type = _SCALARS[kind]
    else:
        added.type = _FIELD.TYPE_MESSAGE
        added.type_name = f".{package}.{kind}"


@cache
def files() -> dict[str, Any]:
    """Return the descriptions of all files, by the full name of the service in each."""
    service = "GRPCInferenceService"
    return {
        f"inference.{service}": file_of(
            "open_inference_grpc.proto", "inference", INFERENCE, service, INFERENCE_CALLS
        ),
        "grpc.health.v1.Health": file_of(
            "health.proto", "grpc.health.v1", HEALTH, "Health", HEALTH_CALLS
        ),
    }


@cache
def message_class(full_name: str) -> Any:
    """Return the class of a message, for example ``inference.ModelInferRequest``.

    The classes live in a pool of their own, so that a client's generated code in the same process
    does not clash with them.
    """
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full_name))


@cache
def request_name(call: str) -> str:
    """Return the full name of the message that a call, ``SERVICE/METHOD``, takes."""
    service, _, method = call.partition("/")
    (found,) = [one for one in files()[service].service[0].method if one.name == method]
    return str(found.input_type[1:])


@cache
def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    for file in files().values():
        pool.Add(file)
    return pool
