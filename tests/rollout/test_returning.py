"""Going back after a rollout has ended: what its history says, and what it is from then on."""

import pytest

from salver.core.rollouts import RolloutPolicy, check_policy
from salver.rollout.machine import Command, Rollout, command
from salver.rollout.returning import gone_back
from salver.rollout.states import Return

POLICY = check_policy(RolloutPolicy(strategy="manual"))
RUNNING = Rollout("e", 4, "m:1", "m:2", POLICY, "s", 0, "alice", step=0, weight=500)


def ended(kind: str) -> Rollout:
    """Return the rollout as it is after a person ended it."""
    return command(RUNNING, Command(kind, "alice"))[0]


def back(source: str, target: str) -> Return:
    """Return that somebody went back."""
    return Return(source, target, "bob", "wrong", 7)


def test_a_promotion_that_is_left_is_taken_back() -> None:
    """The state stays final, and the line has both versions, who and why."""
    before = ended("promote")
    after, line = gone_back(before, back("m:2", "m:1"))
    assert (after.state, after.taken_back) == ("promoted", back("m:2", "m:1"))
    assert (after.sequence, line.sequence) == (before.sequence + 1,) * 2
    assert (line.kind, line.actor, line.state, line.weight) == ("go_back", "bob", "promoted", 0)
    assert line.reason == "from m:2 to m:1: wrong"
    assert line.evidence == {"from": "m:2", "to": "m:1"}


@pytest.mark.parametrize(
    ("kind", "source", "target", "weight"),
    [
        ("promote", "m:3", "m:2", 10_000),
        ("promote", "m:2", "m:2", 10_000),
        ("promote", "", "m:1", 0),
        ("abort", "m:3", "m:1", 0),
    ],
)
def test_going_back_from_something_else_takes_no_promotion_back(
    kind: str, source: str, target: str, weight: int
) -> None:
    """A deploy that came after it is what was undone, or only options of the endpoint."""
    after, line = gone_back(ended(kind), back(source, target))
    assert after.taken_back is None
    assert line.weight == weight
    assert line.evidence == {"from": source, "to": target}


def test_a_promotion_stays_taken_back() -> None:
    """Going back once more, from what was deployed since, does not hide it."""
    first, _ = gone_back(ended("promote"), back("m:2", "m:1"))
    second, line = gone_back(first, back("m:3", "m:1"))
    assert second.taken_back == first.taken_back
    assert line.sequence == first.sequence + 1
