"""Declared ranges and categories become part of the signature, or are refused by name."""

import math

import pytest

from salver.artifact.declare import Declaration, declare
from salver.core.errors import InvalidArtifact
from salver.core.signature import Column, Signature, TensorSpec

TABLE = Signature(
    (
        TensorSpec("input", "FP32", (-1, 2), (Column("age"), Column("height"))),
        TensorSpec("country", "BYTES", (-1, 1)),
        TensorSpec("features", "INT64", (-1, 3)),
    ),
    (TensorSpec("y", "FP32", (-1,)),),
)


def test_columns_by_name_and_by_position() -> None:
    """Named columns, whole one-column inputs, and positions of nameless ones can be declared."""
    signature = declare(
        TABLE,
        {
            "age": Declaration(minimum=0, maximum=120),
            "country": Declaration(categories=("de", "fr"), sensitive=True),
            "features[2]": Declaration(categories=(1, 2.0, 2.5)),
        },
    )
    table, country, features = signature.inputs
    assert table.columns == (Column("age", minimum=0, maximum=120), Column("height"))
    assert country.columns == (Column("country", True, ("de", "fr")),)
    assert [column.name for column in features.columns] == [f"features[{i}]" for i in range(3)]
    assert features.columns[2].categories == ("1", "2", "2.5")
    assert signature.outputs == TABLE.outputs


def test_nothing_declared_changes_nothing() -> None:
    """Without declarations the signature is the one of the file."""
    assert declare(TABLE, {}) == TABLE


@pytest.mark.parametrize(
    ("name", "declaration", "hint"),
    [
        ("agee", Declaration(minimum=0), "did you mean 'age'"),
        ("features[3]", Declaration(minimum=0), "features\\["),
        ("country", Declaration(minimum=0), "no range"),
        ("age", Declaration(minimum=3, maximum=2), "not a range"),
        ("age", Declaration(minimum=math.nan), "not a range"),
        ("age", Declaration(maximum=math.inf), "not a range"),
        ("age", Declaration(categories=()), "categories"),
    ],
)
def test_what_cannot_hold_is_refused(name: str, declaration: Declaration, hint: str) -> None:
    """The refusal names the column and what is wrong with it."""
    with pytest.raises(InvalidArtifact, match=hint):
        declare(TABLE, {name: declaration})
