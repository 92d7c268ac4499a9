"""Declared ranges and categories, for every kind of column."""

import math
from typing import Any

import numpy as np
import pytest

from salver.core.context import ANONYMOUS, RequestContext
from salver.core.datatypes import datatype_of
from salver.core.errors import SalverError, ValueRejected
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.signature import OUT_OF_RANGE, Column, Signature, TensorSpec
from salver.core.tensor import AnyArray, Tensor
from salver.gateway.validation import SignatureCheck
from salver.observe.meter import Meter
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

COLUMNS = {
    "BYTES": Column("kind", categories=("a", "b")),
    "INT64": Column("size", categories=("1", "2")),
    "FP32": Column("level", categories=("1", "2.5")),
    "FP64": Column("age", minimum=0, maximum=120),
}


class Answers:
    """Handler that answers with nothing, and responder that keeps what it is told."""

    def __init__(self) -> None:
        self.error: SalverError | None = None
        self.response: InferenceResponse | None = None

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer."""
        responder.send(InferenceResponse([]))

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Keep an answer."""
        self.response = response

    def fail(self, error: SalverError) -> None:
        """Keep an error."""
        self.error = error


def ask(datatype: str, values: AnyArray, policy: str) -> tuple[Answers, Meter]:
    """Send one column of values to an endpoint with this policy."""
    spec = TensorSpec("x", datatype, (-1, 1), (COLUMNS[datatype],))
    signature = Signature((spec,), (TensorSpec("y", "FP32", (-1,)),))
    variant = VariantPlan(
        "m:1", "primary", "m", "1", "0" * 64, "test", 10_000, 1, signature, ("shared-0",)
    )
    answers, meter = Answers(), Meter()
    check = SignatureCheck(answers, meter)
    check.apply(Plan(1, 0, (EndpointPlan("m", (variant,), validation=policy),)))
    context = RequestContext("id", ANONYMOUS, 0, 1)
    context.variant = "m:1"
    request = InferenceRequest("m", [Tensor.from_array("x", values.reshape(-1, 1))])
    check(request, context, answers)
    return answers, meter


CASES = [
    ("BYTES", np.array([b"a", b"b", b"a"], object), True),
    ("BYTES", np.array([b"a", b"c"], object), False),
    ("BYTES", np.array([b"\xff"], object), False),
    ("INT64", np.array([1, 2, 2]), True),
    ("INT64", np.array([1, 3]), False),
    ("FP32", np.array([1.0, 2.5], np.float32), True),
    ("FP32", np.array([1.5], np.float32), False),
    ("FP32", np.array([math.nan], np.float32), False),
    ("FP64", np.array([0.0, 120.0]), True),
    ("FP64", np.array([-0.001]), False),
    ("FP64", np.array([math.inf]), False),
]


@pytest.mark.parametrize(("datatype", "values", "fits"), CASES)
def test_values_are_checked_by_policy(datatype: str, values: AnyArray, fits: bool) -> None:
    """Reject refuses what does not fit, warn lets it through with a word, off does not look."""
    answers, _ = ask(datatype, values, "reject")
    assert isinstance(answers.error, ValueRejected) == (not fits)
    answers, meter = ask(datatype, values, "warn")
    assert answers.response is not None
    assert (answers.response.parameters is None) == fits
    assert fits or COLUMNS[datatype].name in (answers.response.parameters or {})[OUT_OF_RANGE]
    counted = {sample.name for sample in meter.counters()}
    assert ("salver_out_of_range_total" in counted) == (not fits)
    answers, _ = ask(datatype, values, "off")
    assert answers.error is None


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_categories_are_as_the_datatype_holds_them(
    kind: type[np.floating[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In FP32, 0.1 is another number than in FP64, and both are what was declared as 0.1."""
    datatype = datatype_of(np.dtype(kind))
    monkeypatch.setitem(COLUMNS, datatype, Column("part", categories=("0.1", "0.2", "3", "none")))
    assert ask(datatype, np.array([0.1, 0.2, 3.0], kind), "reject")[0].error is None
    assert isinstance(ask(datatype, np.array([0.3], kind), "reject")[0].error, ValueRejected)


def test_a_plan_that_says_the_same_makes_no_rule_anew() -> None:
    """Plans come often, and reading thousands of categories each time would stop everybody."""
    check = SignatureCheck(Answers(), Meter())

    def rule(policy: str, column: Column) -> object:
        spec = TensorSpec("x", "FP32", (-1, 1), (column,))
        signature = Signature((spec,), (TensorSpec("y", "FP32", (-1,)),))
        variant = VariantPlan(
            "m:1", "primary", "m", "1", "0" * 64, "test", 10_000, 1, signature, ("shared-0",)
        )
        check.apply(Plan(1, 0, (EndpointPlan("m", (variant,), validation=policy),)))
        return check._rules["m", "m:1"]

    first = rule("warn", Column("a", categories=("0.1",)))
    assert rule("warn", Column("a", categories=("0.1",))) is first
    assert rule("reject", Column("a", categories=("0.1",))) is not first
    assert rule("reject", Column("a", categories=("0.2",))) is not first


def test_refusals_do_not_repeat_values() -> None:
    """The message names the column, never what was in it."""
    answers, _ = ask("BYTES", np.array([b"secret"], object), "reject")
    assert answers.error is not None
    assert "secret" not in answers.error.message
