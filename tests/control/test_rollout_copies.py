"""A blue-green version is promoted by itself only when its copies have shown no harm."""

import asyncio
from typing import Any

import msgspec
import pytest

from salver.control.rollouts.analyst import Analyst
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.judging import read_analysis
from salver.control.rollouts.lane import Lane
from salver.core.clock import ManualClock
from salver.core.errors import InvalidRequest
from salver.core.rollouts import BLUE_GREEN, RolloutPolicy, check_policy
from salver.core.routing import FULL
from salver.observe.merge import Totals
from salver.rollout.machine import (
    HOLD,
    PAUSE,
    PAUSED,
    PROMOTE,
    PROMOTED,
    ROLL_BACK,
    ROLLED_BACK,
    RUNNING,
    Finding,
    Rollout,
    Tick,
    tick,
)

READY = Tick(1.0, is_ready=True, is_primary_ready=True)
EPOCH = "4"


def rollout(**analysis: Any) -> Rollout:
    """Return a rollout whose new version gets copies."""
    analysis = {"warmup_s": 0, "warmup_requests": 1, **analysis}
    policy = RolloutPolicy(
        strategy=BLUE_GREEN, sample=FULL, auto=True, min_requests=0, analysis=analysis
    )
    begun = Rollout("e", 1, "m:1", "m:2", check_policy(policy), "salt", 0, "me", first_epoch=3)
    copied, _ = tick(begun, READY)
    assert (copied.state, copied.step) == (RUNNING, 0)
    return copied


def looked(state: Rollout, slow: int = 0, **copies: int) -> tuple[Finding, Rollout]:
    """Return what is found of so many copies of each outcome, and what becomes of the rollout."""
    counters = {
        ("salver_shadow_copies_total", ("e", "m:2", EPOCH, outcome)): float(count)
        for outcome, count in copies.items()
    }
    total = sum(copies.values())
    histograms = {
        ("salver_shadow_seconds", ("e", "m:2", EPOCH, who)): ((total - late, late), 0.0)
        for who, late in (("primary", 0), ("shadow", slow))
    }

    analyst = Analyst(EvidenceBooks(), None, None)  # type: ignore[arg-type]
    totals = Totals(counters, histograms)  # type: ignore[arg-type]
    look = asyncio.run(analyst.look(state, totals, Lane("look", ManualClock())))
    assert look.finding is not None
    seen = msgspec.structs.replace(READY, requests=look.requests, finding=look.finding)
    return look.finding, tick(state, seen)[0]


@pytest.mark.parametrize(
    ("copies", "kind", "state"),
    [
        ({}, HOLD, RUNNING),
        ({"dropped": 50_000}, HOLD, RUNNING),
        ({"agrees": 1}, HOLD, RUNNING),
        ({"agrees": 200}, HOLD, RUNNING),
        ({"agrees": 9990, "failed": 10}, HOLD, RUNNING),
        ({"agrees": 188, "failed": 12}, ROLL_BACK, ROLLED_BACK),
        ({"differs": 188, "failed": 12}, ROLL_BACK, ROLLED_BACK),
        ({"differs": 200}, PAUSE, PAUSED),
        ({"agrees": 8960, "differs": 1040}, PAUSE, PAUSED),
        ({"agrees": 10_000, "slow": 2000}, PAUSE, PAUSED),
        ({"agrees": 9050, "differs": 950}, PROMOTE, PROMOTED),
        ({"agrees": 10_000, "dropped": 50_000}, PROMOTE, PROMOTED),
    ],
)
def test_only_what_was_shown_is_promoted(copies: dict[str, int], kind: str, state: str) -> None:
    """Few copies hold, failed ones roll back, late and differing ones ask a person."""
    found, after = looked(rollout(), **copies)
    assert (found.kind, after.state) == (kind, state), found.reason
    names = [line["name"] for line in found.evidence["metrics"]]
    assert names == ["failed_copies", "slow_copies", "differing_copies"]


def test_answers_that_nobody_compared_ask_a_person() -> None:
    """Without a comparison nothing is known of the answers, unless they may differ."""
    many = {"other": 10_000}
    found, after = looked(rollout(), **many)
    assert (found.kind, after.state) == (PAUSE, PAUSED)
    assert "not known" in found.reason
    assert (looked(rollout(min_agreement=0), **many))[1].state == PROMOTED


def test_how_many_answers_must_agree_is_the_owners_to_say() -> None:
    """A new version may be meant to answer otherwise, or never."""
    differing = {"differs": 10_000}
    assert (looked(rollout(min_agreement=0), **differing))[1].state == PROMOTED
    one = {"agrees": 9999, "differs": 1}
    assert (looked(rollout(min_agreement=1), **one))[1].state == PAUSED
    assert (looked(rollout(min_agreement=1), agrees=10_000))[1].state == PROMOTED
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidRequest, match="min_agreement"):
            read_analysis({"min_agreement": wrong})


def test_copies_warm_up_first() -> None:
    """Nothing is said of the first copies, nor of those of the first seconds."""
    state = rollout(warmup_requests=20)
    assert looked(state, failed=19)[0].kind == HOLD
    assert looked(state, failed=20)[0].kind == ROLL_BACK
    state = rollout(warmup_s=1.0)
    found, state = looked(state, failed=1000)
    assert (found.kind, state.state) == (HOLD, RUNNING)
    assert looked(state, failed=1000)[1].state == ROLLED_BACK


def test_copies_that_never_decide_ask_a_person() -> None:
    """A version that is not known to be harmless is not promoted by the time that passes."""
    state, seconds = rollout(), 0
    while state.state == RUNNING:
        seconds += 1
        assert seconds < 4000
        _, state = looked(state, agrees=seconds)
    assert state.state == PAUSED
    assert "taken" in state.reason
