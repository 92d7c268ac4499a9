"""The ways to read JSON agree with one another."""

import math
import subprocess
import sys
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core import request
from salver.core.datatypes import DATATYPES
from salver.core.errors import BodyTooLarge, CallerError
from salver.core.request import form_of
from salver.core.settings import HttpSettings
from salver.gateway.oip import decode
from salver.gateway.oip.body import check_json
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


@pytest.mark.parametrize("reader", ["plain", "auto", "large", "binary", "content", "large content"])
def test_the_last_of_equal_keys_wins_everywhere(reader: str) -> None:
    """At every level, whichever way a body is read, with a content type or without."""
    pad = b'"parameters":{"pad":"' + b"p" * (20_000 if "large" in reader else 0) + b'"},'
    if "content" in reader:
        pad += (
            pad.replace(b"pad", b"content_type")
            .replace(b"p" * 20_000, b"")
            .replace(b':""', b':"np"')
        )
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


ENDLESS = """
from salver.core.errors import BodyTooLarge, CallerError
from salver.core.settings import HttpSettings
from salver.gateway.oip.decode import decode_json
from salver.gateway.oip.reading import Target

zeros = b"0," * 17_300_000 + b"0"
for place in (b'"data":[%b]}]', b'"data":[1]}],"outputs":[%b]', b'"data":[1]}],"unknown":[%b]'):
    body = b'{"inputs":[{"name":"x","datatype":"UINT8","shape":[1],' + place % zeros + b"}"
    try:
        decode_json(body, Target("m", None), HttpSettings())
        print("read")
    except CallerError as error:
        print(error.code)
"""


def test_more_elements_than_the_large_reader_can_count() -> None:
    """A list of over 2**24 elements, wherever it stands, is read or refused and breaks nothing.

    In a process of its own, since what went wrong with them ended the process.
    """
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS], check=False, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.split()) == (
        0,
        ["invalid_tensor", "invalid_request", "read"],
    ), done.stderr


def refusal_of(body: bytes, limit: int = 100) -> str:
    """Return the code with which a body is refused, "" where it is read."""
    try:
        decode_json(body, TARGET, HttpSettings(max_objects=limit))
    except CallerError as error:
        return error.code
    return ""


def texts(count: int, text: str = '""', shape: list[int] | None = None) -> bytes:
    """Return a body with many texts, written as they are given."""
    head = {"name": "x", "datatype": "BYTES", "shape": shape or [count]}
    opening = _dumps(head)[:-1] + b', "data": ['
    return b'{"inputs": [' + opening + ",".join([text] * count).encode() + b"]}]}"


@pytest.mark.parametrize(
    "part", ['""', '"[[["', '"\\""', '"\\\\"', "[]", "{}", '{"a":"b"}', "[[1]]"]
)
def test_objects_of_json_are_counted_before_they_are_made(part: str) -> None:
    """Texts, lists and objects over the limit are refused as too large, whatever is in them."""
    assert refusal_of(texts(101, part)) == "body_too_large"
    many = b'{"inputs": [], "parameters": {"x": [' + b",".join([part.encode()] * 101) + b"]}}"
    assert refusal_of(many) == "body_too_large"
    assert refusal_of(b'["' + b"\\" * 5000 + b'"' * 200) == "body_too_large"


@pytest.mark.parametrize("text", ['"a\\"b\\"c"', '"[{[{"', '"\\\\"', "1"])
def test_what_stands_in_texts_is_not_counted(text: str) -> None:
    """Quotes and brackets within texts, and numbers, are no objects of their own."""
    assert refusal_of(texts(80, text)) == ("" if text != "1" else "invalid_tensor")
    numbers = {"name": "x", "datatype": "FP32", "shape": [500], "data": [1.5] * 500}
    assert refusal_of(_dumps({"inputs": [numbers]})) == ""


def test_elements_of_binary_tensors_are_counted() -> None:
    """Shapes tell how many elements all BYTES tensors have, before any is looked at."""
    items = [
        {"name": name, "datatype": "BYTES", "shape": [51], "parameters": {"binary_data_size": 204}}
        for name in "ab"
    ]
    for count, expected in ((2, "body_too_large"), (1, "")):
        head = _dumps({"inputs": items[:count]})
        code = ""
        try:
            body = head + bytes(204 * count)
            decode_binary(body, len(head), TARGET, HttpSettings(max_objects=100))
        except CallerError as error:
            code = error.code
        assert code == expected


def test_a_body_of_many_texts_takes_memory_in_proportion() -> None:
    """At the default limits, a refused body of texts takes no more than a copy of itself."""
    body = texts(4_000_000)
    tracemalloc.start()
    try:
        assert refusal_of(body, SETTINGS.max_objects) == "body_too_large"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * len(body)


def counted(text: bytes) -> tuple[int, bool]:
    """Count texts, lists and objects byte by byte, and tell whether a text has no end."""
    found, position = 0, 0
    while position < len(text):
        byte = text[position : position + 1]
        position += 1
        if byte in b"[{":
            found += 1
        elif byte == b'"':
            found += 1
            while position < len(text) and text[position : position + 1] != b'"':
                position += 2 if text[position : position + 1] == b"\\" else 1
            if position >= len(text):
                return found, True
            position += 1
    return found, False


@given(st.lists(st.sampled_from([b'"', b"\\", b"\\\\", b'\\"', b"[", b"{", b"a", b"\n"])))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_counted_is_what_a_plain_scan_finds(parts: list[bytes]) -> None:
    """Runs of escapes, and texts that end in one, hide as much as they should and no more."""
    text = b"".join(parts)
    found, is_open = counted(text)
    if found:
        # White space in front of it makes it long enough to be looked at.
        check_json(b" " * 3 * found + text, HttpSettings(max_objects=found))
    if found > 1:
        # Of a text without end the other quotation mark is not there to be counted at first.
        ended = text + b'a"' * is_open
        with pytest.raises(BodyTooLarge):
            check_json(b" " * 3 * found + ended, HttpSettings(max_objects=found - 1))
