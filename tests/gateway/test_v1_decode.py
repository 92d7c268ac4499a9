"""How bodies of rows and columns become tensors."""

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.core.datatypes import DATATYPES
from salver.core.errors import CallerError, InvalidRequest, InvalidTensor, MissingInput
from salver.core.settings import HttpSettings
from salver.core.signature import Column, Signature, TensorSpec
from salver.gateway.oip.decode import Decoded
from salver.gateway.oip.reading import Target
from salver.gateway.v1.decode import decode_v1
from tests.gateway.inprocess import endpoint

AGE = Column("age")
MIXED = Signature(
    (
        TensorSpec("age", "FP64", (-1, 1), (AGE,)),
        TensorSpec("city", "BYTES", (-1, 1)),
        TensorSpec("scores", "INT32", (-1, 2), optional=True),
    ),
    (),
)


def decode(document: Any, signature: Signature, settings: HttpSettings | None = None) -> Decoded:
    """Read a document."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    plan = endpoint("m", signature)
    return decode_v1(body, Target("m", None), plan, settings or HttpSettings())


def tensors(document: Any, signature: Signature) -> dict[str, Any]:
    """Return what a document's inputs hold, by name."""
    inputs = decode(document, signature).request.inputs
    for tensor in inputs:
        tensor.check()
    return {tensor.name: tensor.array().tolist() for tensor in inputs}


def single(shape: tuple[int, ...], datatype: str = "FP32", **more: Any) -> Signature:
    """Return the signature of a model with one input."""
    return Signature((TensorSpec("x", datatype, shape, **more),), ())


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"age": 3, "city": "a"}, {"city": "b", "age": 4.5}]},
        {"instances": [{"age": [3], "city": ["a"]}, {"age": [4.5], "city": ["b"]}]},
        {"instances": [[3, "a"], [4.5, "b"]]},
        {"instances": [[[3], ["a"]], [[4.5], ["b"]]]},
        {"inputs": {"age": [3, 4.5], "city": ["a", "b"]}},
        {"inputs": {"age": [[3], [4.5]], "city": [["a"], ["b"]]}},
    ],
)
def test_columns_of_several_types(document: Any) -> None:
    """A table of mixed columns takes cells, with or without the list of one around them."""
    assert tensors(document, MIXED) == {"age": [[3.0], [4.5]], "city": [[b"a"], [b"b"]]}


def test_optional_inputs() -> None:
    """Optional inputs may be left out by all instances, or given by all."""
    one = {"age": 3, "city": "a"}
    full = {**one, "scores": [1, 2]}
    assert list(tensors({"instances": [full]}, MIXED)) == ["age", "city", "scores"]
    with pytest.raises(MissingInput, match="instance 2 lacks 'scores'"):
        tensors({"instances": [full, one]}, MIXED)
    lone = Signature((MIXED.inputs[2], TensorSpec("x", "FP32", (-1,))), ())
    assert tensors({"instances": [1, 2]}, lone) == {"x": [1, 2]}


def test_a_version_is_read_by_its_own_signature() -> None:
    """The version that is asked decides how values are read, and the request stays with it."""
    old, new = endpoint("m", single((-1,))), endpoint("m", single((-1, 2), "INT8"))
    second = msgspec.structs.replace(new.variants[0], version="2")
    plan = msgspec.structs.replace(old, variants=(*old.variants, second))
    for version, datatype, rows in ((None, "FP32", b"[1]"), ("2", "INT8", b"[[1,2]]")):
        body = b'{"instances":%b}' % rows
        request = decode_v1(body, Target("m", version), plan, HttpSettings()).request
        assert (request.version, request.inputs[0].datatype) == (version, datatype)


FITTING: list[tuple[tuple[int, ...], Any, Any]] = [
    ((-1,), [1, 2], [1, 2]),
    ((-1,), [[1], [2]], [1, 2]),
    ((-1, 1), [1, 2], [[1], [2]]),
    ((-1, -1), [[1], [2]], [[1], [2]]),
    ((2,), [1, 2], [1, 2]),
    ((-1, 0), [[], []], [[], []]),
    ((-1, 2, 1), [[1, 2]], [[[1], [2]]]),
]


@pytest.mark.parametrize(("shape", "value", "expected"), FITTING)
def test_a_last_dimension_of_one_may_be_left_out(
    shape: tuple[int, ...], value: Any, expected: Any
) -> None:
    """Values nest as the signature says, but for a last dimension of one."""
    for key in ("instances", "inputs"):
        assert tensors({key: value}, single(shape)) == {"x": expected}


def test_a_scalar() -> None:
    """A model without dimensions takes a bare value."""
    assert tensors({"inputs": 5}, single(())) == {"x": 5}
    assert tensors({"inputs": {"b64": "YQ=="}}, single((), "BYTES")) == {"x": b"a"}


def test_an_input_may_be_called_b64() -> None:
    """The key of bytes is a name where the model has such an input."""
    signature = Signature((TensorSpec("b64", "FP32", (-1,)),), ())
    assert tensors({"instances": [{"b64": 1}, {"b64": 2}]}, signature) == {"b64": [1, 2]}


def test_columns_only_name_the_last_of_two_dimensions() -> None:
    """A tensor of three dimensions is given by its own name, whatever columns it declares."""
    signature = single((-1, 1, 1), columns=(AGE,))
    assert tensors({"instances": [{"x": [[1]]}]}, signature) == {"x": [[[1]]]}


def test_the_default_signature_may_be_named() -> None:
    """Clients that name the default signature, or none, are served."""
    for name in ("serving_default", "", None):
        document = {"signature_name": name, "instances": [1]}
        assert tensors(document, single((-1,))) == {"x": [1]}


def test_long_lists_of_names_are_cut() -> None:
    """A refusal names the first columns of a wide table and counts the rest."""
    columns = tuple(Column(f"c{number}") for number in range(500))
    with pytest.raises(InvalidRequest, match="'c19' and 480 more") as caught:
        tensors({"instances": [{"z" * 5000: 1}]}, single((-1, 500), columns=columns))
    assert len(caught.value.message) < 1000


def test_values_that_do_not_fit_name_the_input_where_no_column_is_odd() -> None:
    """Where every column has the right types, the refusal is about the input."""
    signature = single((-1, 1), "INT8", columns=(AGE,))
    with pytest.raises(InvalidTensor, match="input 'x'"):
        tensors({"instances": [{"age": 300}]}, signature)


def test_both_ways_to_read_numbers_agree() -> None:
    """The plain way gives the same tensor as the usual one."""
    document = {"instances": [[0.1, 2], [3, 4]]}
    plain = decode(document, single((-1, 2)), HttpSettings(json_mode="plain"))
    assert plain.request.inputs[0].array().tolist() == tensors(document, single((-1, 2)))["x"]


def test_an_image_in_nested_lists() -> None:
    """A picture's numbers are read in their order."""
    values = [[[[row * 7 + column, 1, 2] for column in range(64)] for row in range(64)]]
    assert tensors({"instances": values}, single((-1, 64, 64, 3))) == {"x": values}


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
    st.floats(allow_nan=False),
    st.text(max_size=2),
)
NAMES = st.sampled_from(["x", "age", "height", "b64", "city", "scores", "z"])
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["instances", "inputs", "signature_name", "parameters"])
SHAPES = st.lists(st.sampled_from([-1, 0, 1, 2]), max_size=3).map(tuple)
SPECS = st.builds(
    TensorSpec,
    st.sampled_from(["x", "age", "b64"]),
    st.sampled_from(DATATYPES),
    SHAPES,
    st.sampled_from([(), (AGE,), (AGE, Column("height"))]),
    st.booleans(),
)


@settings(max_examples=600, deadline=None)
@given(
    document=st.dictionaries(KEYS, TREES, max_size=3),
    inputs=st.lists(SPECS, max_size=3, unique_by=lambda spec: spec.name).map(tuple),
)
def test_any_document_is_read_or_refused(
    document: dict[str, Any], inputs: tuple[TensorSpec, ...]
) -> None:
    """Whatever is sent to whatever model, the tensors fit the signature or the caller is told."""
    signature = Signature(inputs, ())
    try:
        decoded = decode(document, signature)
    except CallerError:
        return
    for tensor in decoded.request.inputs:
        tensor.check()
    signature.check_inputs(decoded.request.inputs)
