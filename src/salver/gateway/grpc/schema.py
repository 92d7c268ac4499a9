"""The messages of the services, made of the tables of their fields.

Tables instead of generated code: they say the same in a fifth of the lines, need no compiler, and
are what server reflection hands out.
"""

from functools import cache
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from salver.gateway.grpc.tables import health, inference, model_config, reflection, triton
from salver.gateway.grpc.tables.form import Calls, Enums, Field, Messages

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


class File(NamedTuple):
    """A file of messages, enumerations and one service, as its tables describe it."""

    name: str
    service: str
    calls: Calls
    messages: Messages
    enums: Enums

    @property
    def package(self) -> str:
        """The package that everything in it is in."""
        return self.service.rpartition(".")[0]


FILES = (
    File(
        "open_inference_grpc.proto",
        "inference.GRPCInferenceService",
        inference.CALLS | triton.CALLS,
        inference.MESSAGES | triton.MESSAGES | model_config.MESSAGES,
        model_config.ENUMS,
    ),
    File(
        "grpc/health/v1/health.proto",
        "grpc.health.v1.Health",
        health.CALLS,
        health.MESSAGES,
        health.ENUMS,
    ),
    *(
        File(
            f"grpc/reflection/{version}/reflection.proto",
            f"grpc.reflection.{version}.ServerReflection",
            reflection.CALLS,
            reflection.MESSAGES,
            {},
        )
        for version in ("v1", "v1alpha")
    ),
)


def description_of(file: File) -> Any:
    """Return a file's ``FileDescriptorProto``."""
    described = descriptor_pb2.FileDescriptorProto(
        name=file.name, package=file.package, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for path, fields in file.messages.items():
        outer, _, own = path.rpartition(".")
        message = made[outer].nested_type.add() if outer else described.message_type.add()
        made[path] = message
        message.name = own
        for field in fields:
            _add_field(file, message, path, field)
    for path, values in file.enums.items():
        outer, _, own = path.rpartition(".")
        enum = (made[outer] if outer else described).enum_type.add(name=own)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    service = described.service.add(name=file.service.rpartition(".")[2])
    for call, (request, response) in file.calls.items():
        service.method.add(
            name=call,
            input_type=f".{file.package}.{request.lstrip('*')}",
            output_type=f".{file.package}.{response.lstrip('*')}",
            client_streaming=request[0] == "*",
            server_streaming=response[0] == "*",
        )
    return described


def _add_field(file: File, message: Any, path: str, field: Field) -> None:
    name, number, kind = field
    choice, _, kind = kind.rpartition("|")
    mark, kind = (kind[0], kind[1:]) if kind[0] in "*%" else ("", kind)
    added = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if mark:
        added.label = _FIELD.LABEL_REPEATED
    if choice:
        if not message.oneof_decl:
            message.oneof_decl.add(name=choice)
        added.oneof_index = 0
    if mark == "%":
        words = "".join(word.capitalize() for word in name.split("_"))
        entry = message.nested_type.add(name=f"{words}Entry")
        entry.options.map_entry = True
        _add_field(file, entry, f"{path}.{entry.name}", ("key", 1, "string"))
        _add_field(file, entry, f"{path}.{entry.name}", ("value", 2, kind))
        kind = f"{path}.{entry.name}"
    if kind in _SCALARS:
        added.type = _SCALARS[kind]
    else:
        added.type = _FIELD.TYPE_ENUM if kind in file.enums else _FIELD.TYPE_MESSAGE
        added.type_name = f".{file.package}.{kind}"


@cache
def files() -> dict[str, Any]:
    """Return the descriptions of all files, by the full name of the service in each."""
    return {file.service: description_of(file) for file in FILES}


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
