"""Calls of the inference service through the real gRPC library."""

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from salver.core.tensor import AnyArray, Tensor
from salver.gateway.grpc.schema import files, message_class

SERVICE = "inference.GRPCInferenceService"


def call(channel: grpc.Channel, path: str, request: Any, **options: Any) -> Any:
    """Make a unary call and return its answer; ``path`` is SERVICE/METHOD."""
    service, _, method = path.partition("/")
    package = service.rpartition(".")[0]
    (described,) = [m for m in files()[service].service[0].method if m.name == method]
    answer = message_class(f"{package}.{described.output_type.rpartition('.')[2]}")
    return channel.unary_unary(
        f"/{path}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )(request, timeout=options.pop("timeout", 10), **options)


def message(kind: str, **fields: Any) -> Any:
    """Return a message of the inference service."""
    return message_class(f"inference.{kind}")(**fields)


def infer_request(
    model: str, arrays: dict[str, AnyArray], *, raw: bool = True, **fields: Any
) -> Any:
    """Return a ``ModelInferRequest``."""
    request = message("ModelInferRequest", model_name=model, **fields)
    for name, array in arrays.items():
        tensor = Tensor.from_array(name, array)
        added = request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            request.raw_input_contents.append(bytes(tensor.buffer))
        else:
            fill(added.contents, tensor)
    return request


def fill(contents: Any, tensor: Tensor) -> None:
    """Put values into typed contents."""
    fields = {
        "BOOL": "bool", "INT8": "int", "INT16": "int", "INT32": "int", "INT64": "int64",
        "UINT8": "uint", "UINT16": "uint", "UINT32": "uint", "UINT64": "uint64",
        "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes",
    }  # fmt: skip
    getattr(contents, f"{fields[tensor.datatype]}_contents").extend(tensor.array().ravel().tolist())


def infer(channel: grpc.Channel, request: Any, **options: Any) -> Any:
    """Call ``ModelInfer``."""
    return call(channel, f"{SERVICE}/ModelInfer", request, **options)


def begun(channel: grpc.Channel, request: Any, **options: Any) -> Any:
    """Begin a ``ModelInfer`` and return the call, whose status can be asked for."""
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=bytes,
    ).future(request, timeout=20, **options)


def outputs_of(response: Any) -> dict[str, AnyArray]:
    """Return the outputs of a raw answer."""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {
        output.name: Tensor(output.name, output.datatype, tuple(output.shape), raw).array()
        for output, raw in pairs
    }


def refusal(channel: grpc.Channel, request: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    """Return the status and Salver's own code of an ``ModelInfer`` that is refused."""
    return refused(channel, f"{SERVICE}/ModelInfer", request, **options)


def refused(
    channel: grpc.Channel, path: str, request: Any, **options: Any
) -> tuple[grpc.StatusCode, str]:
    """Return the status and Salver's own code of a call that is refused."""
    error = _refusal(channel, path, request, **options)
    return error.code(), _code(error)


def refused_words(channel: grpc.Channel, path: str, request: Any) -> tuple[str, str]:
    """Return Salver's own code and the text of a call that is refused."""
    error = _refusal(channel, path, request)
    return _code(error), str(error.details())


def _refusal(channel: grpc.Channel, path: str, request: Any, **options: Any) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, path, request, **options)
    assert isinstance(caught.value, grpc.Call)
    return caught.value


def _code(error: grpc.Call) -> str:
    return str(dict(error.trailing_metadata() or ()).get("x-salver-code", ""))


def same(left: AnyArray, right: AnyArray) -> bool:
    """Tell whether two arrays are the same to the bit."""
    return left.shape == right.shape and np.array_equal(left, right)


def two_rows(values: Sequence[float]) -> AnyArray:
    """Return an FP32 array of one row."""
    return np.array([values], np.float32)
