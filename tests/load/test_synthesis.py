"""Inputs made up from a signature."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.bench.figures import Format
from salver.bench.synthesis import make_up
from salver.bench.target import Target
from salver.bench.workload import (
    MAX_DISTINCT,
    from_document,
    from_golden,
    from_signature,
    wire,
)
from salver.core.datatypes import DATATYPES, DTYPES
from salver.core.errors import InvalidExample, InvalidTensor
from salver.core.rows import body_to_tensors
from salver.core.signature import Column, Signature, TensorSpec

TARGET = Target("localhost", "127.0.0.1", 8080, "/base")
TABLE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))


def signature(*inputs: TensorSpec) -> Signature:
    """Return a signature of these inputs."""
    return Signature(inputs, ())


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_fits_its_signature(datatype: str) -> None:
    """Made-up tensors are what the signature declares, with as many rows as were asked for."""
    wanted = signature(TensorSpec("x", datatype, (-1, 3)), TensorSpec("z", datatype, (4, -1)))
    tensors = make_up(wanted, 5, np.random.default_rng(0))
    for tensor in tensors:
        tensor.check()
    wanted.check_inputs(tensors)
    assert [tensor.shape for tensor in tensors] == [(5, 3), (4, 1)]


LIMITS = st.none() | st.integers(-100, 100)


@given(LIMITS, st.none() | st.integers(0, 100), st.sampled_from(["FP16", "FP32", "FP64", "INT32"]))
def test_values_stay_within_declared_ranges(
    low: int | None, width: int | None, datatype: str
) -> None:
    """A number is never outside what its column declares."""
    high = None if width is None else (low or 0) + width
    column = Column("a", minimum=low, maximum=high)
    free = Column("b")
    spec = TensorSpec("x", datatype, (-1, 2), (column, free))
    (tensor,) = make_up(signature(spec), 50, np.random.default_rng(1))
    values = tensor.array()[:, 0].astype(float)
    assert low is None or (values >= low).all()
    assert high is None or (values <= high).all()


def test_categories_are_kept() -> None:
    """A column with categories holds nothing else, as text and as numbers."""
    words = TensorSpec("w", "BYTES", (-1, 1), (Column("w", categories=("red", "blue")),))
    numbers = TensorSpec("n", "INT64", (-1, 1), (Column("n", categories=("3", "7")),))
    tensors = make_up(signature(words, numbers), 40, np.random.default_rng(2))
    assert set(tensors[0].array().ravel().tolist()) == {b"red", b"blue"}
    assert set(tensors[1].array().ravel().tolist()) == {3, 7}


def test_optional_inputs_are_left_out_and_sizes_bounded() -> None:
    """Only needed inputs are made up, and never more than fits."""
    needed, extra = TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,), optional=True)
    tensors = make_up(signature(needed, extra), 1, np.random.default_rng(0))
    assert [tensor.name for tensor in tensors] == ["a"]
    with pytest.raises(InvalidExample, match="--rows"):
        make_up(signature(needed), 10**9, np.random.default_rng(0))


def test_made_up_requests_differ_and_are_the_same_for_a_seed() -> None:
    """Many different bodies, so that a cache has little to answer; a seed repeats them."""
    first, same, other = (from_signature(TABLE, 2, seed, Format.JSON) for seed in (0, 0, 1))
    assert first == same
    assert first != other
    assert len({body.content for body in first.bodies}) == MAX_DISTINCT
    tensors = body_to_tensors(orjson.loads(first.bodies[0].content))
    TABLE.check_inputs(tensors)


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "FP16"] + ["BYTES"])
def test_json_and_binary_hold_the_same_values(datatype: str) -> None:
    """The raw bytes behind the JSON are the numbers that the JSON alone would have."""
    wanted = signature(TensorSpec("x", datatype, (-1, 3)))
    plain = from_signature(wanted, 4, 0, Format.JSON).bodies[0]
    raw = from_signature(wanted, 4, 0, Format.BINARY).bodies[0]
    length = int(raw.headers["inference-header-content-length"])
    (tensor,) = body_to_tensors(orjson.loads(plain.content))
    assert raw.content[length:] == bytes(tensor.buffer)
    assert orjson.loads(raw.content[:length])["inputs"][0]["datatype"] == datatype


def test_files_are_sent_as_they_are() -> None:
    """An OIP body keeps its bytes; rows become one request; what does not fit is refused."""
    body = b'{"id": "7",  "inputs": [{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
    assert from_document(body, "f.json", None, Format.JSON).bodies[0].content == body
    rows = from_document(b"[[1, 2], [3, 4]]", "f.json", TABLE, Format.JSON)
    sent = orjson.loads(rows.bodies[0].content)["inputs"][0]
    assert (sent["shape"], sent["data"]) == ([2, 2], [1, 2, 3, 4])
    for data in (b"[[1, 2, 3]]", b'[["a", "b"]]'):
        with pytest.raises(InvalidTensor):
            from_document(data, "f.json", TABLE, Format.JSON)
    with pytest.raises(InvalidExample):
        from_golden(b"\n", "m:1", Format.JSON)
    with pytest.raises(InvalidExample):
        from_golden(b"{", "m:1", Format.JSON)


def test_requests_are_whole_http_messages() -> None:
    """Path, host, length and key are there; a key cannot smuggle in a second header."""
    (request,) = wire(from_document(b"[[1, 2]]", "", TABLE, Format.JSON), TARGET, "m", "k3y")
    head, _, content = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /base/v2/models/m/infer HTTP/1.1"
    assert {"host: localhost:8080", f"content-length: {len(content)}"} < set(lines)
    assert "authorization: Bearer k3y" in lines
    with pytest.raises(InvalidExample):
        wire(from_document(b"[[1, 2]]", "", TABLE, Format.JSON), TARGET, "m", "k\r\nx: y")
