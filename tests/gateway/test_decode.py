"""The ways to read JSON agree with one another."""

import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core import request
from salver.core.datatypes import DATATYPES
from salver.core.errors import CallerError
from salver.core.request import form_of
from salver.core.settings import HttpSettings
from salver.gateway.oip import decode
from salver.gateway.oip.decode import decode_binary, decode_json
from salver.gateway.oip.reading import Target

TARGET = Target("m", None)
SETTINGS = HttpSettings()
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(max_size=3),
    st.none(),
    st.lists(st.integers(0, 3), max_size=2),
)


def outcome(body: bytes, mode: str) -> Any:
    """Return what came out, in comparable form: tensors, or that it was refused."""
    try:
        decoded = decode_json(body, TARGET, SETTINGS, mode)
    except CallerError:
        return "refused"
    return [
        (t.name, t.datatype, t.shape, bytes(t.buffer)) for t in decoded.request.inputs
    ], decoded.caller_id


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Make request bodies, most of them nearly right."""
    count = draw(st.integers(0, 6))
    kind = draw(st.sampled_from(["floats", "ints", "anything"]))
    element = {
        "floats": st.floats(allow_nan=False, allow_infinity=False),
        "ints": st.integers(-(2**65), 2**65),
        "anything": NUMBERS,
    }[kind]
    data = draw(st.lists(element, min_size=count, max_size=count))
    datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(st.sampled_from([[count], [1, count], [count, 1], [2, count]]))
    item = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return _dumps({"inputs": [item], "id": draw(st.none() | st.text(max_size=3))})


def _dumps(document: Any) -> bytes:
    import json  # noqa: PLC0415 - orjson cannot write integers over 64 bits

    return json.dumps(document).encode()


@settings(max_examples=600, deadline=None)
@given(bodies())
def test_all_ways_agree(body: bytes) -> None:
    """The typed and the plain way give the same tensors, bit by bit, or both refuse."""
    assert outcome(body, "auto") == outcome(body, "plain")


@settings(max_examples=300, deadline=None)
@given(bodies())
def test_the_way_for_large_bodies_agrees(body: bytes) -> None:
    """The library pysimdjson gives what the plain way gives."""
    before, decode._SIMD_BYTES = decode._SIMD_BYTES, 0
    try:
        assert outcome(body, "auto") == outcome(body, "plain")
    finally:
        decode._SIMD_BYTES = before


DUPLICATES = [
    b'{"inputs":[],"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[5]}]}',
    b'{"inputs":[{"name":"w","name":"x","datatype":"FP32","shape":[1],"data":[5]}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2],"shape":[1],"data":[5]}]}',
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[9],"data":[5]}]}',
    b'{"inputs":[{"name":"x","datatype":"FP64","datatype":"FP32","shape":[1],"data":[5]}]}',
]


@pytest.mark.parametrize("body", DUPLICATES)
@pytest.mark.parametrize("way", ["typed", "plain", "large"])
def test_of_equal_keys_the_last_wins_on_every_way(
    body: bytes, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Duplicate keys mean the same whichever way reads them."""
    monkeypatch.setattr(decode, "_SIMD_BYTES", 0 if way == "large" else 1 << 30)
    decoded = decode_json(body, TARGET, SETTINGS, "plain" if way == "plain" else "auto")
    (tensor,) = decoded.request.inputs
    assert (tensor.name, tensor.datatype, tensor.array().tolist()) == ("x", "FP32", [5.0])


def test_an_image_as_json() -> None:
    """150,528 numbers are read exactly as they are written."""
    values = [math.sin(i) for i in range(150_528)]
    item = {"name": "x", "datatype": "FP64", "shape": [1, 224, 224, 3], "data": values}
    decoded = decode_json(orjson.dumps({"inputs": [item]}), TARGET, SETTINGS)
    assert decoded.request.inputs[0].array().ravel().tolist() == values


def test_nested_data_is_unnested() -> None:
    """Data nested as the shape says is the same as flat data."""
    nested = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    item = {"name": "x", "datatype": "INT32", "shape": [2, 2, 2], "data": nested}
    decoded = decode_json(orjson.dumps({"inputs": [item]}), TARGET, SETTINGS)
    assert decoded.request.inputs[0].array().tolist() == nested


SNEAKY = [
    b"[1,[2],3]",
    b"[1,[],[2,3]]",
    b"[[1],2,3]",
    b"[1,2,[3]]",
    b'[1,2,3],"extra":[4]',
    b'[1,2,3],"note":"["',
    b"[1,true,3]",
    b"[1,null,3]",
    b"[1,18446744073709551616,3]",
    b"[1,1e39,3]",
    b"[-0.0,1e-400,5e-324]",
]


@pytest.mark.parametrize("data", SNEAKY)
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64"])
def test_lists_that_only_begin_flat(
    data: bytes, datatype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way for large bodies takes no list that the plain way refuses, nor the reverse."""
    monkeypatch.setattr(decode, "_SIMD_BYTES", 0)
    body = b'{"inputs":[{"name":"x","datatype":"%b","shape":[3],"data":%b}]}'
    body %= (datatype.encode(), data)
    assert outcome(body, "auto") == outcome(body, "plain")


def test_large_lists_of_floats_are_left_to_the_large_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The quick way is really taken, also beside other inputs, ids, parameters and outputs."""
    taken: list[str] = []
    original = decode._from_simd

    def watched(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Any:
        taken.append(name)
        return original(name, datatype, shape, data)

    monkeypatch.setattr(decode, "_from_simd", watched)
    monkeypatch.setattr(decode, "_SIMD_BYTES", 0)
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [1, 3], "data": [1.5, 2, 3]} for name in "ab"
    ]
    inputs.append({"name": "c", "datatype": "BYTES", "shape": [1], "data": ["text"]})
    document = {
        "id": "me", "parameters": {"a": 1}, "inputs": inputs, "outputs": [{"name": "y"}],
    }  # fmt: skip
    decoded = decode_json(orjson.dumps(document), TARGET, SETTINGS)
    assert taken == ["a", "b"]
    assert decoded.request.outputs == ("y",)
    assert [tensor.array().ravel().tolist() for tensor in decoded.request.inputs] == [
        [1.5, 2, 3],
        [1.5, 2, 3],
        [b"text"],
    ]


def test_strange_names_are_not_kept() -> None:
    """Callers with ever new and long names cannot fill the memory of forms and packings."""
    for number in range(50):
        name = f"{number}" + "n" * 300_000
        item = {"name": name, "datatype": "FP32", "shape": [1], "data": [1.0]}
        decoded = decode_json(_dumps({"inputs": [item]}), TARGET, SETTINGS)
        form_of(decoded.request)
    for number in range(50):
        item["name"] = f"{number}" + "n" * 1000
        decode_json(_dumps({"inputs": [item]}), TARGET, SETTINGS)
    lengths = [sum(len(name) for name, _, _ in form.inputs) for form in request._forms.values()]
    assert max(lengths, default=0) <= 1024
    assert max((len(name) for name, _, _ in decode._packings), default=0) <= 128


@pytest.mark.parametrize("reader", ["plain", "auto", "large", "binary"])
def test_the_last_of_equal_keys_wins_everywhere(reader: str) -> None:
    """At every level, whichever way a body is read."""
    pad = b'"parameters":{"pad":"' + b"p" * (20_000 if reader == "large" else 0) + b'"},'
    json = (
        b'{"id":"first",' + pad + b'"inputs":[],"inputs":[{"name":"x","shape":[9],"shape":[1,2],'
        b'"datatype":"INT8","datatype":"FP32","data":[7,7,7],"data":[1,2]}],"id":"last"}'
    )
    if reader == "binary":
        decoded = decode_binary(json, len(json), TARGET, SETTINGS)
    else:
        decoded = decode_json(json, TARGET, SETTINGS, "plain" if reader == "plain" else "auto")
    (tensor,) = decoded.request.inputs
    assert (tensor.shape, tensor.datatype) == ((1, 2), "FP32")
    assert tensor.array().tolist() == [[1, 2]]
    assert decoded.caller_id == "last"
