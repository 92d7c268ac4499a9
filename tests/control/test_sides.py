"""What can be no shadow and no experiment is refused, and nothing of it goes on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.control.rollouts.commands import Start
from salver.control.rollouts.sides import ExperimentPlan
from salver.core.clock import ManualClock
from salver.core.errors import Conflict, InvalidRequest
from salver.core.rollouts import RolloutPolicy
from tests.control.parts import Control, control, deploy_first, variant


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Control]:
    """Give a control whose endpoint ``e`` serves the first of two versions, which has an alias."""
    parts = control(tmp_path, "one", ManualClock())
    deploy_first(parts, 2)
    parts.catalog.set_alias("m", "best", 1)
    parts.serve(variant("m:1"), number=3)
    yield parts
    parts.thread.stop()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("version", ["1", "m:1", "m@best"])
def test_a_shadow_of_what_is_served_is_refused(
    parts: Control, version: str, *, force: bool
) -> None:
    """However it is named, with the code that a rollout has for it; a rollout may start then."""
    policy = RolloutPolicy(strategy="manual")
    with pytest.raises(Conflict, match="serves m:1 already") as rolled_out:
        asyncio.run(parts.rollouts.start(Start("e", version, policy, "alice", force)))
    with pytest.raises(Conflict, match="serves m:1 already") as copied:
        asyncio.run(parts.companions.shadow("e", version, 5_000, "alice", force=force))
    assert copied.value.code == rolled_out.value.code
    assert parts.sides.active() == {}
    asyncio.run(parts.rollouts.start(Start("e", "2", policy, "alice")))


def test_a_shadow_of_another_version_goes_on(parts: Control) -> None:
    """Only what is served is no shadow."""
    side = asyncio.run(parts.companions.shadow("e", "2", 5_000, "alice", force=False))
    assert parts.sides.active() == {"e": side}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "versions", [("1",), ("1", "1"), ("1", "m@best"), ("1", "2", "m:2"), ("2", "2")]
)
def test_an_experiment_has_several_arms_each_once(
    parts: Control, versions: tuple[str, ...], *, force: bool
) -> None:
    """One arm, and one that is there twice by whatever name, compare nothing."""
    plan = ExperimentPlan(versions, (), "paid", 1_000)
    with pytest.raises(InvalidRequest):
        asyncio.run(parts.companions.experiment("e", plan, "alice", force=force))
    assert parts.sides.active() == {}
