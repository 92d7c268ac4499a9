"""A push finds out whether rows of unlike lengths may run together."""

import json
from pathlib import Path

import pytest

from salver.artifact.golden import parse_golden
from salver.core.errors import InvalidArtifact
from salver.core.sequences import CutOutput, PaddedInput, Sequences
from tests import models
from tests.engine.test_probe import examine

DECLARED = Sequences((PaddedInput("ids", pad=-7),), "mask")


def example(*names: str, length: int = 6) -> bytes:
    """Return one text as a body of the protocol."""
    data = list(range(1, length + 1))
    inputs = [
        {
            "name": name,
            "datatype": "INT64",
            "shape": [1, length],
            "data": data if name == "ids" else [1] * length,
        }
        for name in names
    ]
    return json.dumps({"inputs": inputs}).encode()


@pytest.mark.parametrize("names", [("ids",), ("ids", "mask"), ()])
def test_outputs_that_grow_are_found(tmp_path: Path, names: tuple[str, ...]) -> None:
    """What follows the length is cut back; the mask may be left out, also with no example."""
    given = example(*names) if names else b""
    report = examine(tmp_path / "a", models.onnx_texts(), sequences=DECLARED, example=given)
    assert report.sequences is not None
    assert report.sequences.inputs == (PaddedInput("ids", pad=-7), PaddedInput("mask"))
    assert report.sequences.outputs == (CutOutput("doubled"),)
    assert report.max_batch_size > 1
    assert [spec.optional for spec in report.signature.inputs] == [False, True]
    (golden,) = parse_golden(report.golden)
    assert [tensor.name for tensor in golden.inputs] == ["ids", "mask"]


def test_a_model_that_heeds_no_mask_runs_lengths_apart(tmp_path: Path) -> None:
    """Where filling changes an answer, the version is stored without it, and the owner is told."""
    model = models.onnx_texts(heeds_mask=False)
    report = examine(tmp_path / "a", model, sequences=DECLARED, example=example("ids"))
    assert report.sequences is None
    assert report.max_batch_size > 1
    assert not any(spec.optional for spec in report.signature.inputs)
    (warning,) = report.warnings
    assert "unlike lengths do not run together" in warning
    assert "sum" in warning


@pytest.mark.parametrize(
    ("declared", "cause"),
    [
        (Sequences((PaddedInput("idz"),)), "no input 'idz'"),
        (Sequences((PaddedInput("ids", 0),)), "axis 0"),
        (Sequences((PaddedInput("ids", 2),)), "axis 2"),
        (Sequences((PaddedInput("ids", pad=0.5),)), "not a value of INT64"),
        (Sequences((PaddedInput("ids", pad=float("inf")),)), "not a value of INT64"),
        (Sequences((PaddedInput("ids", pad=1e30),)), "not a value of INT64"),
        (Sequences((PaddedInput("ids"), PaddedInput("ids"))), "named twice"),
        (Sequences((PaddedInput("mask"),), "mask"), "besides the mask"),
        (Sequences((PaddedInput("ids"), PaddedInput("mask", pad=1)), "mask"), "filled with 0"),
        (Sequences((PaddedInput("ids"),), "masque"), "no input 'masque'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    tmp_path: Path, declared: Sequences, cause: str
) -> None:
    """A declaration that cannot be kept refuses the push and names what is wrong."""
    with pytest.raises(InvalidArtifact, match=cause):
        examine(tmp_path / "a", models.onnx_texts(), sequences=declared)
