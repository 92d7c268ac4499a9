"""The request of ModelInfer as a class of `google.protobuf`, made from field numbers."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_TABLE = {
    "InferInputTensor": (
        ("name", 1, _FIELD.TYPE_STRING, _FIELD.LABEL_OPTIONAL),
        ("datatype", 2, _FIELD.TYPE_STRING, _FIELD.LABEL_OPTIONAL),
        ("shape", 3, _FIELD.TYPE_INT64, _FIELD.LABEL_REPEATED),
    ),
    "ModelInferRequest": (
        ("model_name", 1, _FIELD.TYPE_STRING, _FIELD.LABEL_OPTIONAL),
        ("inputs", 5, _FIELD.TYPE_MESSAGE, _FIELD.LABEL_REPEATED),
        ("raw_input_contents", 7, _FIELD.TYPE_BYTES, _FIELD.LABEL_REPEATED),
    ),
}


def _request_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="ceiling.proto", package="c", syntax="proto3")
    for name, fields in _TABLE.items():
        message = file.message_type.add(name=name)
        for own, number, kind, label in fields:
            field = message.field.add(name=own, number=number, type=kind, label=label)
            if kind == _FIELD.TYPE_MESSAGE:
                field.type_name = ".c.InferInputTensor"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("c.ModelInferRequest"))


ModelInferRequest = _request_class()
