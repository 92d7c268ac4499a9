"""``ModelInferResponse`` as bytes: what is the same for many answers is made once."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Final

from salver.core.context import RequestContext
from salver.core.request import InferenceResponse, JointResponse, Parameters
from salver.core.tensor import Tensor
from salver.gateway.grpc.framing import Buffer
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.tensors import fill_typed
from salver.gateway.grpc.wire import bytes_field

_ID: Final = 3
_RAW_OUTPUT: Final = 6

Outputs = tuple[tuple[str, str, tuple[int, ...]], ...]


Notes = Mapping[str, Parameters]
"""Parameters of outputs, by name."""


def encode(
    endpoint: str,
    context: RequestContext,
    response: InferenceResponse,
    notes: Notes,
    *,
    is_typed: bool,
) -> list[Buffer]:
    """Return a response's message in parts; typed contents where all outputs have them."""
    outputs = response.outputs
    if response.parameters or notes or is_typed:
        return [_in_full(endpoint, context, response, notes, is_typed=is_typed)]
    described = tuple([(t.name, t.datatype, t.shape) for t in outputs])
    parts: list[Buffer] = [prefix(endpoint, context.version, described)]
    if context.caller_id:
        parts.append(_id_field(context.caller_id))
    for tensor in outputs:
        parts.append(bytes_field(_RAW_OUTPUT, tensor.size_bytes))
        parts.append(tensor.buffer)
    return parts


def members(
    endpoint: str, version: str, response: JointResponse, start: int, stop: int
) -> list[bytes]:
    """Return the messages of some members of a joint answer, raw and without ids."""
    count, rows = len(response.timings), response.rows
    outputs = response.outputs
    described = tuple([(t.name, t.datatype, (rows, *t.shape[1:])) for t in outputs])
    pieces: list[Iterable[bytes]] = [repeat(prefix(endpoint, version, described))]
    for tensor in outputs:
        size, buffer = tensor.size_bytes // count, bytes(tensor.buffer)
        pieces.append(repeat(bytes_field(_RAW_OUTPUT, size)))
        pieces.append([buffer[index * size : (index + 1) * size] for index in range(start, stop)])
    if not outputs:
        return [prefix(endpoint, version, described)] * (stop - start)
    return [b"".join(parts) for parts in zip(*pieces, strict=False)]


@lru_cache(maxsize=1024)
def prefix(endpoint: str, version: str, outputs: Outputs) -> bytes:
    """Return the message up to the values of its outputs, without the caller's id."""
    message = message_class("inference.ModelInferResponse")(
        model_name=endpoint, model_version=version
    )
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
    return bytes(message.SerializeToString())


def _id_field(caller_id: str) -> bytes:
    data = caller_id.encode()
    return bytes_field(_ID, len(data)) + data


def _in_full(
    endpoint: str,
    context: RequestContext,
    response: InferenceResponse,
    notes: Notes,
    *,
    is_typed: bool,
) -> bytes:
    message = message_class("inference.ModelInferResponse")(
        model_name=endpoint, model_version=context.version, id=context.caller_id or ""
    )
    for name, value in (response.parameters or {}).items():
        _set_parameter(message.parameters[name], value)
    typed = is_typed and _all_typed(response.outputs)
    for tensor in response.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        for name, value in notes.get(tensor.name, {}).items():
            _set_parameter(output.parameters[name], value)
        if typed:
            fill_typed(output.contents, tensor)
        else:
            message.raw_output_contents.append(bytes(tensor.buffer))
    return bytes(message.SerializeToString())


def _all_typed(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.datatype != "FP16" for tensor in tensors)


def _set_parameter(parameter: object, value: object) -> None:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param"}
    kind = kinds.get(type(value), "string_param")
    setattr(parameter, kind, value if kind != "string_param" else str(value))
