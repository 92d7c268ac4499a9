"""Inferences from any bytes: however a body is read, it means the same, or is refused."""

import contextlib
from typing import Any

from salver.core.errors import CallerError
from salver.core.settings import HttpSettings
from salver.core.signature import Column, Signature, TensorSpec
from salver.gateway.oip import decode
from salver.gateway.oip.decode import Decoded, decode_binary, decode_json, decode_member
from salver.gateway.oip.reading import Target
from salver.gateway.v1.decode import decode_v1
from tests.gateway.inprocess import endpoint

TARGET = Target("m", None)
SETTINGS = HttpSettings()
TABLE = endpoint(
    "m",
    Signature(
        (
            TensorSpec("x", "FP32", (-1, 2), (Column("age"), Column("height"))),
            TensorSpec("note", "BYTES", (-1, 1), optional=True),
        ),
        (TensorSpec("y", "FP32", (-1, 2)),),
    ),
)


def examine(data: bytes) -> None:
    """Read bytes in each way that there is for JSON, with raw tensors behind it, and as V1."""
    plain = read_json(data, "plain")
    assert read_json(data, "auto") == plain, "the typed way differs"
    usual, decode._SIMD_BYTES = decode._SIMD_BYTES, 0
    try:
        large = read_json(data, "auto")
    finally:
        decode._SIMD_BYTES = usual
    assert large == plain, "the way for large bodies differs"
    member = decode_member(data, SETTINGS)
    if member is not None:
        form, payload, caller_id = member
        assert plain is not None
        heads = tuple((name, datatype, shape) for name, datatype, shape, _ in plain[0])
        assert (form.inputs, payload, caller_id) == (
            heads,
            b"".join(raw for _, _, _, raw in plain[0]),
            plain[1],
        )
    opening, end, _ = data.partition(b"}\n")
    with contextlib.suppress(CallerError):
        described(decode_binary(data, len(opening + end), TARGET, SETTINGS))
    with contextlib.suppress(CallerError):
        described(decode_v1(data, TARGET, TABLE, SETTINGS))


def read_json(body: bytes, mode: str) -> Any:
    """Return what a body says in comparable form, None when it is refused."""
    try:
        return described(decode_json(body, TARGET, SETTINGS, mode))
    except CallerError:
        return None


def described(decoded: Decoded) -> tuple[Any, ...]:
    """Return what was read in comparable form; every tensor must hold its values."""
    request = decoded.request
    tensors = []
    for tensor in request.inputs:
        assert tensor.array().shape == tensor.shape
        tensors.append((tensor.name, tensor.datatype, tensor.shape, bytes(tensor.buffer)))
    return (
        tensors, decoded.caller_id, request.outputs, request.parameters, decoded.binary_default,
        decoded.outputs, decoded.classes, decoded.contents is None,
    )  # fmt: skip
