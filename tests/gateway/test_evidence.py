"""What gateways count for rollouts: each request once, in the arm and the segment it fell to."""

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from salver.core.clock import ManualClock
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.exchange import Exchange, JointExchange, keep_answer
from salver.core.request import InferenceResponse, JointResponse
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor, encode_bytes
from salver.core.timing import Timing
from salver.gateway.evidence import EvidenceCounter
from salver.rollout.columns import Columns, encode_columns
from salver.rollout.tally import (
    ERRORS,
    REFUSED,
    REMEMBERED,
    REQUESTS,
    SEGMENTS,
    Layout,
    Packed,
    Table,
    unpack,
)
from salver.wire.messages import EndpointPlan, Evidence, Plan, VariantPlan

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("label", "BYTES", (-1,)), TensorSpec("scores", "FP32", (-1, 2))),
)
SLOW_S = 0.1
LAYOUT = Layout(("p95",), (SLOW_S,), ("yes", "no"), (0.5,))
COLUMNS = Columns(LAYOUT, LAYOUT)
WEIGHT = 2_000


def plan(epoch: int, evidence: bytes = encode_columns(COLUMNS)) -> Plan:
    """Return a plan with a canary of 20 %, whose counts begin at an epoch."""
    variants = tuple(
        VariantPlan(
            f"m:{version}", role, "m", str(version), "0" * 64, "onnx", weight, epoch, SIGNATURE, ()
        )
        for version, role, weight in ((1, "primary", 10_000 - WEIGHT), (2, "canary", WEIGHT))
    )
    return Plan(1, 0, (EndpointPlan("e", variants, evidence=evidence, captures=True),))


def one(
    version: int, place: int, *, epoch: int = 7, code: str = "", seconds: float = 0.01
) -> Exchange:
    """Return the record of one request."""
    context = RequestContext("id", ANONYMOUS, 0, 1, variant=f"m:{version}")
    context.weight_epoch, context.place = epoch, place
    return Exchange(context, "e", "http", code, round(seconds * 1e9), Timing())


def answered(exchange: Exchange, label: str, score: float) -> Exchange:
    """Add what a model answered."""
    outputs = [
        Tensor("label", "BYTES", (1,), encode_bytes([label])),
        Tensor.from_array("scores", np.array([[1 - score, score]], np.float32)),
    ]
    keep_answer(exchange, InferenceResponse(outputs))
    return exchange


def counter() -> EvidenceCounter:
    """Return a counter that acts on the plan."""
    made = EvidenceCounter(ManualClock(), random.Random(0))
    made.apply(plan(7))
    return made


def tables(messages: Sequence[Evidence]) -> dict[tuple[str, int], Table]:
    """Return the tables in messages, by arm and epoch."""
    return {
        (message.arm, message.epoch): unpack(Packed(message.width, message.rows, message.bins))
        for message in messages
    }


def test_a_request_counts_in_its_arm_and_segment() -> None:
    """The segment is that of the place its routing key fell to."""
    counts = counter()
    counts([one(2, 12), one(2, 14), one(1, 9_999), one(2, 13, code="model_failed")])
    found = tables(counts.messages())
    canary, primary = found["canary", 7], found["primary", 7]
    assert canary.rows[2, REQUESTS] == 3
    assert canary.rows[2, ERRORS] == 1
    assert primary.rows[SEGMENTS - 1, REQUESTS] == 1
    assert (canary.rows[:, REQUESTS].sum(), primary.rows[:, REQUESTS].sum()) == (3, 1)


@pytest.mark.parametrize(
    ("code", "requests", "errors", "refused"),
    [
        ("", 1, 0, 0),
        ("model_failed", 1, 1, 0),
        ("deadline_exceeded", 1, 1, 0),
        ("circuit_open", 1, 1, 0),
        ("invalid_tensor", 1, 0, 1),
        ("value_rejected", 1, 0, 1),
        ("missing_input", 1, 0, 1),
        ("quota_exceeded", 0, 0, 0),
        ("cancelled", 1, 0, 0),
    ],
)
def test_only_what_is_the_variants_fault_counts_against_it(
    code: str, requests: int, errors: int, refused: int
) -> None:
    """What a version refuses is told from what it fails at; who asks says nothing of it."""
    counts = counter()
    counts([one(2, 1, code=code)])
    rows = tables(counts.messages()).get(("canary", 7), Table(np.zeros((1, 5)), np.zeros(1))).rows
    sums = rows.sum(axis=0)
    assert (sums[REQUESTS], sums[ERRORS], sums[REFUSED]) == (requests, errors, refused)


def test_without_a_key_the_segment_is_one_of_the_arms() -> None:
    """The point that drew the variant is as good as another of its part."""
    counts = counter()
    counts([one(version, -1) for version in (1, 2) for _ in range(400)])
    found = tables(counts.messages())
    last = WEIGHT // 5
    assert np.flatnonzero(found["canary", 7].rows[:, REQUESTS]).max() < last
    assert np.flatnonzero(found["primary", 7].rows[:, REQUESTS]).min() >= last
    assert np.count_nonzero(found["canary", 7].rows[:, REQUESTS]) > 150


def test_who_gives_up_has_waited_so_long() -> None:
    """A version that hangs for some is slow for them, not without them."""
    counts = counter()
    counts([one(2, 0, code="cancelled", seconds=2.0), one(2, 0)])
    row = tables(counts.messages())["canary", 7].rows[0]
    assert (row[REQUESTS], row[ERRORS], row[LAYOUT.slower_than(0)].sum()) == (2, 0, 1)


def test_answers_from_memory_are_traffic_and_no_evidence() -> None:
    """Chance gave them to the arm; but a canary begins with nothing in memory.

    That would make an equal version slower.
    """
    counts = counter()
    from_memory = one(2, 0, seconds=9.0)
    from_memory.timing = None
    counts([answered(from_memory, "yes", 0.9), one(2, 0)])
    table = tables(counts.messages())["canary", 7]
    row = table.rows[0]
    assert (row[REQUESTS], row[REMEMBERED], row[ERRORS]) == (2, 1, 0)
    assert row[LAYOUT.slower_than(0)].sum() == row[LAYOUT.first_label :].sum() == 0
    assert table.bins.sum() == 1


@pytest.mark.parametrize("code", ["", "model_failed", "invalid_tensor", "cancelled"])
def test_who_joins_an_equal_request_is_traffic_however_that_ends(code: str) -> None:
    """One run is one piece of evidence, whether it succeeds or fails for all who waited."""
    counts = counter()
    waiters = [one(2, 0, code=code, seconds=9.0) for _ in range(5)]
    for waiter in waiters[1:]:
        waiter.context.joined = True
    counts([*waiters])
    row = tables(counts.messages())["canary", 7].rows[0]
    assert (row[REQUESTS], row[REMEMBERED]) == (5, 4)
    assert row[ERRORS] + row[REFUSED] + row[LAYOUT.slower_than(0)].sum() == 1


def test_slow_requests_classes_and_scores_are_counted() -> None:
    """Unknown classes count as one more."""
    counts = counter()
    counts(
        [
            answered(one(2, 0, seconds=0.2), "yes", 0.9),
            answered(one(2, 0), "no", 0.2),
            answered(one(2, 0), "perhaps", 0.3),
        ]
    )
    row = tables(counts.messages())["canary", 7].rows[0]
    assert row[LAYOUT.slower_than(0)].sum() == 1
    assert row[LAYOUT.first_label : LAYOUT.first_score].tolist() == [1, 1, 1]
    assert row[LAYOUT.first_score : LAYOUT.width].tolist() == [2, 1]


def test_the_members_of_a_cohort_count_each() -> None:
    """With what each was answered."""
    context = RequestContext("", ANONYMOUS, 0, 1, variant="m:2")
    context.weight_epoch, context.place = 7, 3
    signature = Signature(SIGNATURE.inputs, (TensorSpec("scores", "FP32", (-1, 2)),))
    given = plan(7)
    variants = tuple(
        msgspec.structs.replace(variant, signature=signature)
        for variant in given.endpoints[0].variants
    )
    layout = Layout((), (), ("0", "1"), (0.5,))
    counts = EvidenceCounter(ManualClock(), random.Random(0))
    endpoint = msgspec.structs.replace(
        given.endpoints[0], variants=variants, evidence=encode_columns(Columns(layout, layout))
    )
    counts.apply(msgspec.structs.replace(given, endpoints=(endpoint,)))
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], np.float32)
    response = JointResponse([Tensor.from_array("scores", scores)], 1, [Timing()] * 3)
    counts([JointExchange(context, "e", "http", 1, ["a", "b", "c"], [Timing()] * 3, 1, response)])
    row = tables(counts.messages())["canary", 7].rows[0]
    assert row[REQUESTS] == 3
    assert row[layout.first_label : layout.first_score].tolist() == [2, 1, 0]
    assert row[layout.first_score :].tolist() == [2, 1]


def test_counts_are_cumulative_and_numbered() -> None:
    """A report that is lost or comes twice does no harm; what has not changed is not told again."""
    counts = counter()
    counts([one(2, 1)])
    first = counts.messages()
    assert [message.number for message in first] == [1]
    assert not counts.messages()
    counts([one(2, 1)])
    (second,) = counts.messages()
    assert second.number == 2
    assert tables([second])["canary", 7].rows[0, REQUESTS] == 2


def test_what_was_lost_is_told_again() -> None:
    """A control that died before it wrote counts down gets them once more, unasked."""
    counts = counter()
    counts([one(2, 1)])
    assert counts.messages()
    found = tables([m for _ in range(40) for m in counts.messages()])
    assert found["canary", 7].rows[0, REQUESTS] == 1


def test_what_chance_did_not_decide_is_no_evidence() -> None:
    """Rules and callers that name a version have epoch 0; other epochs are others'."""
    counts = counter()
    counts([one(2, 1, epoch=0), one(2, 1, epoch=6)])
    assert not counts.messages()


def test_late_answers_count_in_their_own_epoch() -> None:
    """A request that was open when the weights changed belongs to those it was drawn by."""
    counts = counter()
    counts([one(2, 1)])
    counts.messages()
    counts.apply(plan(8))
    counts([one(2, 1), one(2, 1, epoch=8)])
    found = tables(counts.messages())
    assert found["canary", 7].rows[0, REQUESTS] == 2
    assert found["canary", 8].rows[0, REQUESTS] == 1


def test_what_is_not_understood_is_not_counted() -> None:
    """A gateway serves on, whatever a newer control wants counted."""
    counts = EvidenceCounter(ManualClock(), random.Random(0))
    counts.apply(plan(7, b"\xff\x00 from the future"))
    counts([one(2, 1)])
    assert not counts.messages()


def test_ended_epochs_are_forgotten() -> None:
    """Counts of what nobody can be waiting for are let go, and never more than some are kept."""
    clock = ManualClock()
    counts = EvidenceCounter(clock, random.Random(0))
    for epoch in range(1, 200):
        counts.apply(plan(epoch))
    counts([one(2, 1, epoch=epoch) for epoch in range(1, 200)])
    assert len(counts.messages()) < 70
    clock.advance(601)
    counts.apply(plan(200))
    counts([one(2, 1, epoch=epoch) for epoch in range(1, 201)])
    assert {message.epoch for message in counts.messages()} == {199, 200}


def experiment(weights: tuple[int, int, int], floor: int = 0) -> Plan:
    """Return a plan of an experiment with three arms."""
    variants = tuple(
        VariantPlan(f"m:{n}", role, "m", str(n), "0" * 64, "onnx", weight, 7, SIGNATURE, ())
        for n, role, weight in zip((1, 2, 3), ("primary", "arm", "arm"), weights, strict=True)
    )
    columns = encode_columns(Columns(Layout(), Layout()))
    return Plan(1, 0, (EndpointPlan("e", variants, evidence=columns, floor=floor),))


def test_the_arms_of_an_experiment_are_told_apart() -> None:
    """By their versions; answers from memory are traffic, too."""
    counts = EvidenceCounter(ManualClock(), random.Random(0))
    counts.apply(experiment((5_000, 3_000, 2_000)))
    from_memory = one(3, 4_000)
    from_memory.timing = None
    counts([one(1, 9_000), one(2, 10), one(2, 10), from_memory])
    found = tables(counts.messages())
    assert {arm: table.rows[:, REQUESTS].sum() for (arm, _), table in found.items()} == {
        "primary": 1,
        "m:2": 2,
        "m:3": 1,
    }
    assert found["m:3", 7].rows[800, REQUESTS] == 1


def test_without_a_key_arms_count_in_their_floors_as_often_as_they_lie_there() -> None:
    """Each place of an arm is as likely, those of its floor and the others."""
    counts = EvidenceCounter(ManualClock(), random.Random(0))
    counts.apply(experiment((7_000, 2_000, 1_000), floor=1_000))
    counts([one(version, -1) for version in (1, 2, 3) for _ in range(1_000)])
    found = tables(counts.messages())
    rows = [found[arm, 7].rows[:, REQUESTS] for arm in ("m:2", "m:3", "primary")]
    assert rows[1][200:400].sum() == 1_000
    assert rows[0][:200].sum() == pytest.approx(500, abs=80)
    assert rows[0][600:800].sum() == 1_000 - rows[0][:200].sum()
    assert rows[2][400:600].sum() == pytest.approx(1_000 / 7, abs=60)
    assert rows[2][800:].sum() == 1_000 - rows[2][400:600].sum()
