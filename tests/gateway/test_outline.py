"""Bodies read by the outline of an earlier one say what the whole of them says."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salver.core.settings import HttpSettings
from salver.gateway.oip import outline
from salver.gateway.oip.decode import decode_member
from salver.gateway.oip.outline import Outlines

SETTINGS = HttpSettings()
NAMES = st.sampled_from(["x", "", "[", ']}]}"', '"data":[', "dätä", 'a"data":[1]}]}'])
VALUES = st.lists(
    st.one_of(
        st.integers(-300, 300),
        st.floats(allow_nan=False, allow_infinity=False, width=32),
        st.sampled_from([2**64, 1e300, True, None, "1", [1], "]"]),
    ),
    max_size=4,
)


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, Any]:
    """Give one input, its keys in any order, usual more often than not."""
    data = draw(VALUES)
    item: dict[str, Any] = {
        "name": draw(NAMES),
        "shape": draw(st.sampled_from([[len(data)], [1, len(data)], [2]])),
        "datatype": draw(st.sampled_from(["FP32", "INT64", "UINT8", "BYTES"])),
        "data": data,
    }
    if draw(st.booleans()):
        item["tags"] = draw(VALUES)
    if draw(st.integers(0, 4)) == 0:
        item["parameters"] = {}
    return {key: item[key] for key in draw(st.permutations(list(item)))}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Give a body, often with the numbers at its end as clients write them."""
    document: dict[str, Any] = {"inputs": draw(st.lists(inputs(), min_size=1, max_size=2))}
    for key in draw(st.lists(st.sampled_from(["id", "outputs", "more"]), unique=True)):
        document[key] = draw(st.sampled_from(["a", [], [1], {"data": [2]}]))
    keys = draw(st.permutations(list(document)))
    spaces = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]))
    text = json.dumps(
        {key: document[key] for key in keys},
        separators=spaces,
        ensure_ascii=draw(st.booleans()),
    )
    return text.encode(errors="surrogatepass")


def body(data: str, head: str = '"name":"x","shape":[1,2],"datatype":"FP32"') -> bytes:
    """Return a body whose input ends with these numbers."""
    return f'{{"inputs":[{{{head},"data":[{data}]}}]}}'.encode()


@given(st.lists(bodies(), min_size=1, max_size=8))
@example([body("1,2"), body("3,4"), body('3,4],"data":[5,6'), body("[3,4]"), body("3,true")])
@example([body("1,2"), body("1"), body("1,2,3"), body(""), body("1,2,"), body("1 , 2 ")])
@example([body("1,2", '"data":[1],"name":"x","shape":[2],"datatype":"INT64"'), body("3,4")])
def test_an_outline_changes_nothing(many: list[bytes]) -> None:
    """Whatever was read before, each body gives what it gives by itself, also the second time."""
    outlines = Outlines(SETTINGS)
    for one in many * 2:
        assert outlines.read(one) == decode_member(one, SETTINGS)


LOOKALIKES = {
    "the shape comes last": (
        b'{"inputs":[{"name":"x","datatype":"INT64","data":[1,2],"shape":[2]}]}',
        b'{"inputs":[{"name":"x","datatype":"INT64","data":[1,2],"shape":[1,2]}]}',
    ),
    "a key that ends like data": (
        b'{"inputs":[{"name":"x","datatype":"INT64","data":[1],"shape":[1],"\\"data":[5]}]}',
        b'{"inputs":[{"name":"x","datatype":"INT64","data":[1],"shape":[1],"\\"data":[6]}]}',
    ),
    "a key with a space in it": (
        b'{"inputs":[{"name":"x","datatype":"INT64","data":[1],"shape":[1],"da ta":[5]}]}',
        b'{"inputs":[{"name":"x","datatype":"INT64","data":[1],"shape":[1],"da ta":[6]}]}',
    ),
    "data of another object": (
        b'{"inputs":[{"name":"x","datatype":"INT64","data":[1],"shape":[1],"y":[{"data":[5]}]}]}',
        b'{"inputs":[{"name":"x","datatype":"INT64","data":[1],"shape":[1],"y":[{"data":[6]}]}]}',
    ),
}


@pytest.mark.parametrize("case", LOOKALIKES)
def test_what_only_looks_like_the_numbers(case: str) -> None:
    """Text in the place of the numbers that is something else is never taken for them."""
    outlines = Outlines(SETTINGS)
    for one in LOOKALIKES[case] * 2:
        assert outlines.read(one) == decode_member(one, SETTINGS)


def test_the_second_body_is_read_by_the_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of bodies that differ in their numbers is read whole, ids included."""
    outlines, whole = Outlines(SETTINGS), list[bytes]()

    def counted(one: Any, settings: HttpSettings) -> Any:
        whole.append(one)
        return decode_member(one, settings)

    monkeypatch.setattr(outline, "decode_member", counted)
    first = b'{"id":"7", "inputs": [{"name":"x","shape":[2],"datatype":"FP32","data": [1, 2]} ] }'
    member = outlines.read(first)
    assert member is not None
    assert member[2] == "7"
    for one in (first, first.replace(b"1, 2", b"3.5,4e1")):
        assert outlines.read(one) == decode_member(one, SETTINGS)
    assert whole == [first]


def test_the_memory_is_bounded() -> None:
    """Callers cannot make it keep more than 256 outlines, nor long ones."""
    outlines = Outlines(SETTINGS)
    for number in range(300):
        outlines.read(body("1,2", f'"name":"x{number}","shape":[2],"datatype":"FP32"'))
    assert 0 < len(outlines._outlines) <= 256
    before = len(outlines._outlines)
    outlines.read(body("1,2", f'"more":"{"y" * 2000}","name":"x","shape":[2],"datatype":"FP32"'))
    assert len(outlines._outlines) == before
