"""What gateways count becomes what is decided, and is the same after control has died."""

import msgspec
import pytest

from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.judging import (
    WARM_UP,
    captures,
    columns_of,
    finding,
    judge_policy,
    with_labels,
)
from salver.core.errors import InvalidRequest, InvalidSettings
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.signature import Column, Signature, TensorSpec
from salver.rollout.columns import Columns, encode_columns
from salver.rollout.counted import Counted
from salver.rollout.evidence import Reading
from salver.rollout.machine import (
    ADVANCE,
    HOLD,
    PREPARING,
    ROLL_BACK,
    ROLLED_BACK,
    Command,
    Rollout,
    Tick,
    command,
    tick,
)
from salver.rollout.report import Verdict
from salver.rollout.series import Slices
from salver.rollout.tally import Layout, Tally, pack
from salver.wire.messages import EndpointPlan, Evidence, VariantPlan
from tests.control.test_planner import version

POLICY = check_policy(
    RolloutPolicy(min_requests=100, analysis={"warmup_s": 0, "warmup_requests": 1})
)
ROLLOUT = Rollout("e", 1, "m:1", "m:2", POLICY, "salt", 0, "alice", step=0, weight=5000)


def plan(epoch: int, columns: Columns, weight: int = 5000) -> EndpointPlan:
    """Return a plan in which a canary has a weight."""
    signature = Signature((), ())
    variants = tuple(
        VariantPlan(each, role, "m", each[-1], "", "onnx", part, epoch, signature, ("shared-0",))
        for each, role, part in (("m:1", "primary", 10_000 - weight), ("m:2", "canary", weight))
    )
    return EndpointPlan("e", variants, salt="salt", evidence=encode_columns(columns))


def counted(columns: Columns, arm: str, requests: int, failed: int, number: int = 1) -> Evidence:
    """Return what a gateway says of an arm."""
    tally = Tally(columns.of(arm))
    for index in range(requests):
        segment = (7 * index) % 1000 + (0 if arm == "canary" else 1000)
        if index < failed:
            tally.failed(segment)
        else:
            tally.answered(segment, 0.004)
    packed = pack(tally.table())
    return Evidence("e", 7, arm, number, packed.width, packed.rows, packed.bins)


def books_with(canary_failed: int, requests: int = 1500) -> tuple[EvidenceBooks, dict[str, bytes]]:
    """Return evidence of one block, and what was stored of it."""
    columns = columns_of(POLICY, judge_policy(POLICY), None)
    books = EvidenceBooks()
    books.open("e", 1, {})
    assert books.begin(ROLLOUT, plan(7, columns))
    books.take("g1", counted(columns, "canary", requests, canary_failed))
    books.take("g1", counted(columns, "primary", requests, 0))
    return books, books.unsaved("e", 1)


@pytest.mark.parametrize(("failed", "kind"), [(0, ADVANCE), (300, ROLL_BACK)])
def test_evidence_decides_and_survives(failed: int, kind: str) -> None:
    """The same finding comes from what was taken, taken twice, and read again."""
    books, stored = books_with(failed)
    judged = judge_policy(POLICY)
    report, found = finding(ROLLOUT, judged, books.observed("e"))
    assert found.kind == kind
    assert report.requests == 1500
    assert found.evidence["metrics"][0]["n_canary"] == 1500
    again = EvidenceBooks()
    again.open("e", 1, stored)
    assert again.unsaved("e", 1) == {}
    columns = columns_of(POLICY, judged, None)
    again.take("g1", counted(columns, "canary", 1500, failed))
    assert finding(ROLLOUT, judged, again.observed("e")) == (report, found)
    again.take("g2", counted(columns, "canary", 10, 0))
    assert finding(ROLLOUT, judged, again.observed("e"))[0].requests == 1510


def test_evidence_that_does_not_fit_is_left_out() -> None:
    """Other endpoints, epochs and broken tables change nothing and raise nothing."""
    books, stored = books_with(0)
    columns = columns_of(POLICY, judge_policy(POLICY), None)
    good = counted(columns, "canary", 5, 0, number=2)
    for bad in (
        msgspec.structs.replace(good, endpoint="other"),
        msgspec.structs.replace(good, epoch=8),
        msgspec.structs.replace(good, width=90),
        msgspec.structs.replace(good, arm="nobody"),
        msgspec.structs.replace(good, rows=b"\x00garbage"),
    ):
        books.take("g9", bad)
    assert books.unsaved("e", 1) == stored
    books.close("e")
    books.take("g1", good)
    assert not books.has("e", 1)


def test_what_another_salver_counted_ends_no_control() -> None:
    """Stored counts of other columns are left out, and what comes from now on counts."""
    _, stored = books_with(0)
    columns = columns_of(POLICY, judge_policy(POLICY), None)
    narrow = pack(Tally(Layout()).table())
    old = Reading("g0", 9, 7, "canary", narrow)
    books = EvidenceBooks()
    books.open("e", 1, {**stored, "g0:7:canary": msgspec.json.encode(old)})
    books.take("g2", counted(columns, "canary", 10, 0))
    report, _ = finding(ROLLOUT, judge_policy(POLICY), books.observed("e"))
    assert report.requests == 1510


def test_a_block_begins_with_the_plan_that_has_it() -> None:
    """Plans without the canary, without weight or without columns begin none; each one once."""
    columns = columns_of(POLICY, judge_policy(POLICY), None)
    books = EvidenceBooks()
    books.open("e", 1, {})
    wanted = plan(7, columns)
    for other in (
        None,
        msgspec.structs.replace(wanted, evidence=b""),
        msgspec.structs.replace(wanted, variants=wanted.variants[:1]),
        plan(7, columns, weight=0),
    ):
        assert not books.begin(ROLLOUT, other)
    assert books.begin(ROLLOUT, plan(6, WARM_UP))
    assert books.begin(ROLLOUT, wanted)
    assert not books.begin(ROLLOUT, wanted)
    assert [each.block.warmup for each in books.observed("e")] == [True, False]


def test_a_canary_that_fails_while_paused_in_its_warm_up_is_rolled_back() -> None:
    """A pause after the first second keeps the traffic, and so it must not keep from judging."""
    policy = msgspec.structs.replace(POLICY, analysis={"warmup_s": 10.0, "warmup_requests": 1})
    judged = judge_policy(policy)
    ready = Tick(1.0, is_ready=True, is_primary_ready=True)
    started = msgspec.structs.replace(ROLLOUT, policy=policy, step=PREPARING, weight=0)
    rollout, _ = tick(started, ready)
    rollout, _ = command(rollout, Command("pause", "alice"))
    books, _ = books_with(300)
    found = [finding(rollout, judged, books.observed("e"))[1]]
    for _ in range(10):
        rollout, _ = tick(rollout, msgspec.structs.replace(ready, finding=found[-1]))
        found.append(finding(rollout, judged, books.observed("e"))[1])
    assert [each.kind for each in found] == [HOLD] * 10 + [ROLL_BACK]
    rollout, transition = tick(rollout, msgspec.structs.replace(ready, finding=found[-1]))
    assert transition is not None
    assert rollout.state == ROLLED_BACK


@pytest.mark.parametrize("kind", ["feedback_rate", "feedback_mean"])
@pytest.mark.parametrize("label", ["", "clicked"])
def test_feedback_is_compared_under_the_name_it_is_counted_by(kind: str, label: str) -> None:
    """A feedback metric without a label is about the feedback of its own name."""
    spec = {"name": "sold", "kind": kind, "label": label, "max_increase": 0.01}
    analysis = {**POLICY.analysis, "metrics": [spec]}
    policy = msgspec.structs.replace(POLICY, analysis=analysis)
    judged = judge_policy(policy)
    columns = columns_of(policy, judged, None)
    assert columns.primary.feedback == (label or "sold",)
    books = EvidenceBooks()
    books.open("e", 1, {})
    assert books.begin(ROLLOUT, plan(7, columns))
    for arm in ("canary", "primary"):
        books.take("g1", counted(columns, arm, 1500, 0))
    report, found = finding(ROLLOUT, judged, books.observed("e"))
    assert [(each.name, each.verdict) for each in report.metrics] == [("sold", Verdict.NOT_ENOUGH)]
    assert found.kind == ADVANCE


def test_evidence_of_one_rollout_never_judges_another() -> None:
    """A book is one rollout's; a plan that was made for another begins no block in it."""
    books, stored = books_with(300)
    columns = columns_of(POLICY, judge_policy(POLICY), None)
    following = msgspec.structs.replace(ROLLOUT, number=2, salt="other")
    assert books.has("e", 1)
    assert not books.has("e", 2)
    assert books.unsaved("e", 2) == {}
    books.saved("e", 2, stored)
    assert books.unsaved("e", 1) == stored
    books.open("e", 2, {})
    assert not books.has("e", 1)
    assert not books.begin(following, plan(7, columns))
    books.take("g1", counted(columns, "canary", 1500, 300, number=2))
    assert books.observed("e") == []
    assert books.begin(following, msgspec.structs.replace(plan(8, columns), salt="other"))
    books.clear()
    assert not books.has("e", 2)


def test_evidence_is_unsaved_until_it_is_stored() -> None:
    """Rows of a write that failed are in the next; what came meanwhile is not taken for stored."""
    books, stored = books_with(0)
    assert set(stored) == {"block:7", "g1:7:canary", "g1:7:primary"}
    assert books.unsaved("e", 1) == stored
    columns = columns_of(POLICY, judge_policy(POLICY), None)
    books.take("g1", counted(columns, "canary", 1600, 0, number=2))
    books.saved("e", 1, stored)
    left = books.unsaved("e", 1)
    assert set(left) == {"g1:7:canary"}
    assert left["g1:7:canary"] != stored["g1:7:canary"]


def test_nothing_counted_holds() -> None:
    """Without evidence there is neither progress nor harm."""
    _, found = finding(ROLLOUT, judge_policy(POLICY), [])
    assert found.kind == HOLD


def test_a_canary_may_be_as_slow_as_is_tolerated() -> None:
    """Its thresholds are the primary's and what the metric allows, or the floor if that is more."""
    judged = judge_policy(POLICY)
    columns = columns_of(POLICY, judged, None)
    pairs = zip(columns.canary.thresholds_s, columns.primary.thresholds_s, strict=True)
    assert [round(ours - theirs, 6) for ours, theirs in pairs] == [0.001, 0.001, 0.001]
    free = msgspec.structs.replace(POLICY, analysis={"latency_floor_s": 0})
    columns = columns_of(free, judged, None)
    pairs = zip(columns.canary.thresholds_s, columns.primary.thresholds_s, strict=True)
    assert [round(ours / theirs, 6) for ours, theirs in pairs] == [1.03, 1.03, 1.1]


def test_declared_classes_are_counted() -> None:
    """An output's categories become the classes, unless the policy names its own."""
    record = version(1)
    output = TensorSpec("y", "BYTES", (-1,), (Column("y", categories=("no", "yes")),))
    signature = Signature((), (output,))
    manifest = msgspec.structs.replace(record.manifest, signature=signature)
    declared = msgspec.structs.replace(record, manifest=manifest)
    policy = with_labels(POLICY, declared)
    judged = judge_policy(policy)
    columns = columns_of(policy, judged, None)
    assert columns.primary.labels == ("no", "yes")
    assert "class_share" in [spec.name for spec in judged.metrics]
    assert captures(encode_columns(columns))
    assert not captures(b"")
    assert with_labels(POLICY, record) == POLICY
    assert "class_share" not in [spec.name for spec in judge_policy(POLICY).metrics]


@pytest.mark.parametrize(
    "analysis",
    [
        {"alhpa": 0.05},
        {"alpha": 0.9},
        {"alpha": "x"},
        {"latency_floor_s": -1},
        {"promote_on": "hope"},
        {"metrics": [{"name": "a", "kind": "nothing", "max_increase": 1}]},
        {"metrics": [{"name": "a"}]},
        {"labels": [str(number) for number in range(200)]},
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(analysis: dict[str, object]) -> None:
    """What is wrong is said when the rollout is to begin."""
    policy = msgspec.structs.replace(POLICY, analysis=analysis)
    with pytest.raises((InvalidRequest, InvalidSettings)):
        judge_policy(policy)


def test_kayenta_is_asked_by_name() -> None:
    """Its metrics are numbers of each slice, also those by default; others are refused."""
    policy = msgspec.structs.replace(POLICY, analysis={"method": "kayenta", "labels": ["a", "b"]})
    judged = judge_policy(policy)
    assert judged.method == "kayenta"
    assert "class_share" not in [spec.name for spec in judged.metrics]
    scores = {"name": "s", "kind": "score", "max_increase": 0.1, "direction": "either"}
    analysis = {"method": "kayenta", "metrics": [scores]}
    with pytest.raises(InvalidSettings, match="score_edges"):
        judge_policy(msgspec.structs.replace(POLICY, analysis=analysis))
    edged = msgspec.structs.replace(POLICY, analysis={**analysis, "score_edges": [0.5]})
    assert [spec.name for spec in judge_policy(edged).metrics] == ["s"]
    for wrong in ({"method": "guess"}, {"slice_s": 0.1}):
        with pytest.raises(InvalidRequest):
            judge_policy(msgspec.structs.replace(POLICY, analysis=wrong))


def test_time_slices_outlive_control() -> None:
    """What is stored of them is what the next control goes on with."""
    books, stored = books_with(0)
    slices = Slices(3.0, Counted((1.0,), (2.0,)), Counted((3.0,), (4.0,)), {"x": ((1.0,), (None,))})
    books.cut("e", 1, slices)
    rows = {**stored, **books.unsaved("e", 1)}
    assert set(rows) == {*stored, "slices"}
    again = EvidenceBooks()
    again.open("e", 1, rows)
    assert again.slices("e") == slices
    assert again.observed("e")[0].canary.rows.sum() == books.observed("e")[0].canary.rows.sum()
