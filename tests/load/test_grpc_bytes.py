"""What the load generator writes and reads of gRPC, byte by byte, against the known libraries."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame
from hypothesis import given
from hypothesis import strategies as st

from salver.bench.asking import Asker
from salver.bench.figures import Format
from salver.bench.frames import DATA, FrameReader, MalformedAnswer
from salver.bench.heads import PATH, deadline, fields_of
from salver.bench.message import inputs_of
from salver.bench.refusals import error_of
from salver.bench.target import Target
from salver.bench.workload import from_document, from_signature, wire
from salver.core.datatypes import DTYPES
from salver.core.errors import (
    DeadlineExceeded,
    Internal,
    NotReady,
    Overloaded,
    SalverError,
    UnsupportedOperation,
)
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from tests.gateway.grpc.calls import message

TARGET = Target("localhost", "127.0.0.1", 8080)
NAMES = st.text(st.characters(min_codepoint=0x61, max_codepoint=0x7A), min_size=1, max_size=200)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=300)


@pytest.mark.parametrize("datatype", [*DTYPES, "BYTES"])
def test_messages_are_those_of_protobuf(datatype: str) -> None:
    """What the protobuf library reads is what was meant, of every datatype."""
    signature = Signature(
        (TensorSpec("first", datatype, (-1, 300)), TensorSpec("b", "BOOL", (1,))), ()
    )
    workload = from_signature(signature, 2, 0, Format.GRPC)
    plain = from_signature(signature, 2, 0, Format.BINARY)
    (request, *_) = wire(workload, TARGET, "an-endpoint", "")
    assert request[:5] == b"\0" + (len(request) - 5).to_bytes(4, "big")
    read = message("ModelInferRequest")
    read.ParseFromString(request[5:])
    assert read.model_name == "an-endpoint"
    assert [(one.name, one.datatype, list(one.shape)) for one in read.inputs] == [
        ("first", datatype, [2, 300]),
        ("b", "BOOL", [1]),
    ]
    assert plain.bodies[0].content.endswith(b"".join(read.raw_input_contents))
    assert len(read.raw_input_contents) == 2


def test_files_are_sent_as_raw_tensors() -> None:
    """An OIP body and rows hold the same tensors over gRPC as over REST."""
    body = b'{"inputs": [{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
    expected = inputs_of([Tensor.from_array("x", np.array([[1, 2]], np.float32))])
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), ())
    for data in (body, b"[[1, 2]]"):
        workload = from_document(data, "f.json", signature, Format.GRPC)
        assert [one.content for one in workload.bodies] == [expected]


@given(st.lists(st.tuples(NAMES, VALUES), max_size=10), st.booleans(), st.booleans())
def test_header_blocks_are_read_as_they_were_meant(
    pairs: list[tuple[str, str]], huffman: bool, status: bool
) -> None:
    """Whatever an encoder without a table writes, coded or plain, its fields come back."""
    pairs = [(":status", "200")] * status + pairs
    encoder = Encoder()
    encoder.header_table_size = 0
    encoder.encode([])
    block = encoder.encode(pairs, huffman=huffman)
    assert fields_of(block) == {name.encode(): value.encode() for name, value in pairs}


@given(st.binary(max_size=100))
def test_any_bytes_are_a_block_or_refused(block: bytes) -> None:
    """No block ends in anything but fields or the one error."""
    try:
        fields = fields_of(block)
    except MalformedAnswer:
        return
    assert all(isinstance(value, bytes) for value in fields.values())


FRAMES = st.one_of(
    st.builds(
        lambda stream, size, ends: DataFrame(
            stream, bytes(size), flags=("END_STREAM",) if ends else ()
        ),
        st.integers(1, 99), st.integers(0, 16_384), st.booleans(),
    ),
    st.builds(
        lambda stream, block: HeadersFrame(stream, block, flags=("END_HEADERS",)),
        st.integers(1, 99), st.binary(max_size=300),
    ),
    st.builds(lambda data: PingFrame(0, data), st.binary(min_size=8, max_size=8)),
)  # fmt: skip


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 20_000), min_size=1, max_size=20))
def test_frames_are_cut_alike_wherever_the_bytes_break(
    written: list[Frame], sizes: list[int]
) -> None:
    """However the stream comes in, its frames are the same, and data is counted."""
    data = b"".join(one.serialize() for one in written)
    reader, found, at, turn = FrameReader(), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found += reader.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    expected = [
        (one.type, one.stream_id)
        for one in written
        if not isinstance(one, DataFrame) or "END_STREAM" in one.flags
    ]
    assert [(kind, stream) for kind, _, stream, _ in found] == expected
    bodies = [one.serialize_body() for one in written if not isinstance(one, DataFrame)]
    assert [payload for kind, _, _, payload in found if kind != DATA] == bodies
    assert reader.data_bytes == sum(len(one.data) for one in written if isinstance(one, DataFrame))


def test_a_frame_over_the_limit_is_refused() -> None:
    """A server cannot make the generator keep more than one frame of the usual size."""
    with pytest.raises(MalformedAnswer):
        FrameReader().feed(b"\x00\x40\x01\x01\x04\x00\x00\x00\x01")
    with pytest.raises(MalformedAnswer):
        FrameReader().feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("left_ns", "expected"),
    [
        (-5, b"00000001u"),
        (1_999, b"00000001u"),
        (10_000_000_000, b"10000000u"),
        (99_999_999_999, b"99999999u"),
        (100_000_000_000, b"00100000m"),
        (10**18, b"99999999m"),
    ],
)
def test_deadlines_have_eight_digits(left_ns: int, expected: bytes) -> None:
    """What is left is told in microseconds, then in milliseconds, always equally long."""
    ((name, value),) = fields_of(deadline(left_ns)).items()
    assert (name, value) == (b"grpc-timeout", expected)


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        (
            {
                b"grpc-status": b"14",
                b"x-salver-code": b"overloaded",
                b"grpc-message": b"50%25 full",
            },
            Overloaded,
            "50% full",
        ),
        ({b"grpc-status": b"12"}, UnsupportedOperation, "UNIMPLEMENTED.*--protocol rest"),
        ({b":status": b"404"}, UnsupportedOperation, "HTTP 404.*--protocol rest"),
        ({b"grpc-status": b"5", b"grpc-message": b"no such"}, Internal, "NOT_FOUND.*no such"),
    ],
)
def test_refusals_become_errors(
    fields: dict[bytes, bytes], kind: type[SalverError], text: str
) -> None:
    """Salver's code decides where there is one; a server without the call is told with the fix."""
    with pytest.raises(kind, match=text):
        raise error_of(fields, TARGET)


def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answer as a message asks for it: right, with a refusal, or late."""
    if b"refuse" in request:
        context.set_trailing_metadata((("x-salver-code", "not_ready"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "später")
    if b"late" in request:
        while context.is_active():
            time.sleep(0.01)
    assert context.time_remaining() < 30
    return bytes(100_000)


@pytest.fixture(name="asker", scope="module")
def _asker() -> Iterator[Asker]:
    service, _, method = PATH[1:].partition("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
    handler = grpc.method_handlers_generic_handler(service, handlers)
    server = grpc.server(ThreadPoolExecutor(2), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Asker(Target("localhost", "127.0.0.1", port), "", 1.0) as asker:
            yield asker
    finally:
        server.stop(0).wait()


def test_grpcs_own_server_is_understood(asker: Asker) -> None:
    """Its answers, its coded header blocks, its refusals and its deadlines are read right."""
    assert asker.ask("right", b"") is None
    refused = asker.ask("refuse", b"")
    assert isinstance(refused, NotReady)
    assert refused.message == "später"
    late = asker.ask("late", b"")
    assert isinstance(late, DeadlineExceeded | Internal)
    assert "DEADLINE_EXCEEDED" in late.message or "no answer within" in late.message
    assert asker.ask("right", bytes(0)) is None
