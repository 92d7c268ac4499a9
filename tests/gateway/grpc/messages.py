"""gRPC messages from any bytes: what is cut out of them is what the protobuf library reads."""

import contextlib
from typing import Any

from google.protobuf.message import DecodeError

from salver.core.cohort import inputs_of
from salver.core.errors import CallerError, SalverError
from salver.core.request import InferenceRequest
from salver.core.settings import HttpSettings
from salver.gateway.grpc.framing import PREFIX, only_message, timeout_ns
from salver.gateway.grpc.incoming import Incoming, Message
from salver.gateway.grpc.infer import REQUEST, GrpcInference, parse
from salver.gateway.grpc.plans import Plans
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.wire import split_raw

LIMIT_BYTES = 1 << 16
ENCODINGS = (b"identity", b"gzip", b"deflate", b"unknown")


def examine(data: bytes) -> None:
    """Read bytes as a call's body, as the messages of a stream, as a message, and as a deadline."""
    body, fields = data[1:], {b"grpc-encoding": ENCODINGS[data[0] % len(ENCODINGS)]} if data else {}
    try:
        message = bytes(only_message(body, fields, LIMIT_BYTES))
    except SalverError:
        message = body
    check_message(message)
    check_plans(PREFIX.pack(0, len(message)) + message)
    check_pieces(data)
    with contextlib.suppress(CallerError):
        assert timeout_ns(data) >= 0


def check_message(message: bytes) -> None:
    """Cutting the raw tensors out changes nothing about a request."""
    try:
        rest, raw = split_raw(message, LIMIT_BYTES, LIMIT_BYTES)
        fast = parse(REQUEST, rest)
    except CallerError:
        fast, raw = None, []
    try:
        whole: Any = message_class(REQUEST).FromString(message)
    except DecodeError:
        whole = None
    if fast is None:
        return
    assert whole is not None, "cut into pieces it was a message, as a whole it is none"
    assert [bytes(one) for one in raw] == list(whole.raw_input_contents)
    del whole.raw_input_contents[:]
    assert fast.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)
    request_of(message)


def request_of(message: bytes) -> InferenceRequest | None:
    """Return the request that a message is, None where it is refused; tensors must hold values."""
    reader = GrpcInference(None, HttpSettings())  # type: ignore[arg-type]
    try:
        rest, raw = split_raw(message, LIMIT_BYTES, LIMIT_BYTES)
        request = reader._decoded(parse(REQUEST, rest), raw).request
    except CallerError:
        return None
    for tensor in request.inputs:
        assert tensor.array().shape == tensor.shape
    return request


def check_plans(body: bytes) -> None:
    """A message that tells how to read others like it tells the same about itself."""
    request = request_of(body[PREFIX.size :])
    if request is None:
        return
    plans = Plans()
    plans.learn(body, request)
    found = plans.find(body)
    if found is None:
        return
    plan, payload = found
    assert (plan.target.endpoint, plan.target.version) == (request.endpoint, request.version)
    pairs = zip(inputs_of(plan.form, payload), request.inputs, strict=True)
    for quick, usual in pairs:
        assert (quick.name, quick.datatype, quick.shape) == (
            usual.name,
            usual.datatype,
            usual.shape,
        )
        assert bytes(quick.buffer) == bytes(usual.buffer)
    other = body[: -len(payload)] + bytes(len(payload))
    again = request_of(other[PREFIX.size :])
    assert again is not None, "another tensor made the message wrong"
    assert bytes(again.inputs[0].buffer) == bytes(len(payload))


def check_pieces(data: bytes) -> None:
    """The messages of a stream are the same whatever pieces they come in."""
    whole, pieces = Incoming(LIMIT_BYTES), Incoming(LIMIT_BYTES)
    whole.add(data)
    first, error = _messages(whole)
    second: list[Message] = []
    refused = ""
    for start in range(len(data)):
        pieces.add(data[start : start + 1])
        more, refused = _messages(pieces)
        second += more
        if refused:
            break
    assert (first, error) == (second, refused)
    if not error:
        assert whole.taken_bytes == pieces.taken_bytes == len(data)


def _messages(incoming: Incoming) -> tuple[list[Message], str]:
    """Return the messages that are whole, and why there are no more, if that is an error."""
    found: list[Message] = []
    try:
        while (message := incoming.next()) is not None:
            found.append((message[0], bytes(message[1])))
    except SalverError as refused:
        return found, refused.code
    return found, ""
