"""A version takes another's place only where no caller would notice."""

import pytest

from salver.core.signature import Column, Signature, TensorSpec
from salver.rollout.compatibility import differences

X = TensorSpec("x", "FP32", (-1, 2), (Column("a"), Column("b")))
Y = TensorSpec("y", "FP32", (-1,))
OLD = Signature((X,), (Y,))


def spec(name: str, datatype: str = "FP32", *shape: int, optional: bool = False) -> TensorSpec:
    """Return a tensor without columns."""
    return TensorSpec(name, datatype, shape or (-1,), optional=optional)


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        Signature((spec("x", "FP32", -1, 2),), (Y,)),
        Signature((spec("x", "FP32", -1, -1),), (Y,)),
        Signature((X, spec("z", optional=True)), (Y, spec("more"))),
        Signature((X,), (spec("y", "FP32", 1),)),
    ],
)
def test_more_freedom_for_callers_is_no_difference(new: Signature) -> None:
    """Freer inputs, optional ones, more outputs and more definite ones are fine."""
    assert differences(OLD, new) == []


@pytest.mark.parametrize(
    ("new", "what"),
    [
        (Signature((), (Y,)), "does not take input 'x'"),
        (Signature((spec("x", "FP64", -1, 2),), (Y,)), "FP64 instead of FP32"),
        (Signature((spec("x", "FP32", -1, 3),), (Y,)), "[-1, 3] instead of [-1, 2]"),
        (Signature((spec("x", "FP32", 1, 2),), (Y,)), "[1, 2]"),
        (Signature((spec("x", "FP32", -1),), (Y,)), "shape"),
        (Signature((X, spec("z")), (Y,)), "needs input 'z'"),
        (Signature((X,), ()), "does not give output 'y'"),
        (Signature((X,), (spec("y", "INT64"),)), "output 'y' is INT64"),
        (Signature((X,), (spec("y", "FP32", -1, 1),)), "output 'y' has shape"),
        (
            Signature((TensorSpec("x", "FP32", (-1, 2), (Column("b"), Column("a"))),), (Y,)),
            "from column 1 on",
        ),
    ],
)
def test_what_callers_would_notice_is_named(new: Signature, what: str) -> None:
    """Each difference says which tensor, what it is, and what it was."""
    found = differences(OLD, new)
    assert any(what in line for line in found), found


def test_an_optional_input_stays_optional() -> None:
    """Who left it out would be refused."""
    old = Signature((X, spec("z", optional=True)), (Y,))
    assert differences(old, Signature((X, spec("z")), (Y,))) == [
        "input 'z' may not be left out any more"
    ]


def test_a_variable_output_stays_within_what_was_promised() -> None:
    """An output that had one shape may not have any."""
    old = Signature((X,), (spec("y", "FP32", 1),))
    assert "output 'y' has shape" in differences(old, OLD)[0]
