"""Gateways count from the canary's first request on, and not from the first look at it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from salver.control.desired import Desired
from salver.core.clock import ManualClock
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.rollout.machine import PREPARING, Rollout
from tests.control.parts import Control, control, deploy_first, variant


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Control]:
    """Give a control whose endpoint has the first of two versions."""
    parts = control(tmp_path, "one", ManualClock())
    deploy_first(parts, 2)
    yield parts
    parts.thread.stop()


def begin(
    parts: Control, step: int, strategy: Literal["canary", "blue-green"] = "canary"
) -> Rollout:
    """Begin a rollout at which nobody has looked."""
    policy = check_policy(RolloutPolicy(strategy=strategy))
    weight = 500 if step > PREPARING and strategy == "canary" else 0
    return parts.begin(Rollout("e", 0, "m:1", "m:2", policy, "s", 0, "a", step=step, weight=weight))


def wanted(parts: Control) -> Desired:
    """Return what is wanted of the endpoint."""
    desired, _ = parts.reconciler._read({})
    return desired[0]


def test_the_first_weight_comes_with_what_is_counted(parts: Control) -> None:
    """The first look wants the same, so that no weight epoch ends for it."""
    begin(parts, 0)
    first = wanted(parts)
    assert first.evidence
    halves = (variant("m:1", weight=9_500, epoch=4), variant("m:2", "canary", 500, 4))
    parts.serve(*halves, number=4, salt=first.salt, evidence=first.evidence)
    asyncio.run(parts.runner._tick())
    assert parts.runner.current["e"].columns == first.evidence
    assert wanted(parts).evidence == first.evidence
    assert parts.books.newest_epoch("e") == 4


@pytest.mark.parametrize(("step", "strategy"), [(PREPARING, "canary"), (0, "blue-green")])
def test_what_gets_no_requests_is_not_counted(
    parts: Control, step: int, strategy: Literal["canary", "blue-green"]
) -> None:
    """Neither while it is loaded, nor where it gets copies, which are counted otherwise."""
    begin(parts, step, strategy)
    assert wanted(parts).evidence == b""
