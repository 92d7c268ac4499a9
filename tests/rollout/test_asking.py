"""Steps wait for webhooks and promotions for people, and harm waits for neither."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import ApprovalMissing, Conflict, SalverError
from salver.core.rollouts import BLUE_GREEN, MANUAL, RolloutPolicy, check_policy
from salver.core.routing import FULL
from salver.core.webhooks import BEFORE_STEP, WHEN_PAUSED, WHEN_PROMOTED, Webhook
from salver.rollout.machine import (
    ADVANCE,
    APPROVAL,
    HOLD,
    PAUSE,
    PAUSED,
    PROMOTE,
    PROMOTED,
    PROMOTION,
    ROLL_BACK,
    ROLLED_BACK,
    RUNNING,
    Answer,
    Command,
    Finding,
    Rollout,
    Tick,
    begun,
    command,
    tick,
)
from salver.rollout.notices import notices

DESK = Webhook("desk", "https://desk.example/", (BEFORE_STEP, WHEN_PROMOTED))
CHAT = Webhook("chat", "https://chat.example/", (WHEN_PAUSED,))
YES, NO = Answer(True), Answer(False, "webhook desk said no: 403: not today")


def rollout(approvals: int = 0, **policy: object) -> Rollout:
    """Return a rollout of alice that has just begun, with two webhooks."""
    made = msgspec.structs.replace(RolloutPolicy(min_requests=10, webhooks=(DESK, CHAT)), **policy)
    return Rollout(
        "e", 1, "m:1", "m:2", check_policy(made), "salt", 0, "alice", approvals=approvals
    )


def good(requests: int, kind: str = ADVANCE, answer: Answer | None = None) -> Tick:
    """Return a second in which all is well."""
    return Tick(1.0, True, True, requests, Finding(kind, "no metric is worse"), answer=answer)


def walk(state: Rollout, *seen: Tick) -> Rollout:
    """Return the rollout after these ticks."""
    for one in seen:
        state, _ = tick(state, one)
    return state


def at_the_end(approvals: int = 0, **policy: object) -> Rollout:
    """Return a rollout in its only step, about which webhooks said yes."""
    state = walk(rollout(approvals, steps=(500, FULL), **policy), good(0), good(0, answer=YES))
    assert (state.step, state.weight) == (0, 500)
    return state


def test_a_promotion_before_a_first_step_says_who_is_missing() -> None:
    """A blue-green version that can answer waits for approvals, not for itself."""
    state = walk(rollout(1, strategy=BLUE_GREEN, webhooks=()), Tick(1.0, True, True))
    assert (state.state, state.awaits, state.step) == (PAUSED, APPROVAL, -1)
    with pytest.raises(ApprovalMissing, match="0 of 1 approvals"):
        command(state, Command("promote", "alice"))
    state, _ = command(state, Command("approve", "bob"))
    state, _ = command(state, Command("promote", "alice"))
    assert state.state == PROMOTED


seen = st.builds(
    Tick,
    st.floats(0, 5),
    st.booleans(),
    st.just(True),
    st.integers(0, 1000),
    st.builds(
        Finding, st.sampled_from((HOLD, ADVANCE, ADVANCE, PAUSE, PROMOTE, ROLL_BACK)), st.just("x")
    ),
    answer=st.sampled_from((None, YES, NO)),
)
people = st.sampled_from(("alice", "bob", "Bob ", "carol"))
said = st.builds(
    Command,
    st.sampled_from(("pause", "resume", "promote", "weight", "approve", "approve")),
    people,
    st.just(""),
    st.integers(0, 9999),
    st.booleans(),
)
policies = st.builds(
    RolloutPolicy,
    st.sampled_from(("canary", BLUE_GREEN, MANUAL)),
    st.just((500, 2500, FULL)),
    st.booleans(),
    st.integers(0, 20),
    webhooks=st.just((DESK,)),
)


@given(policies, st.integers(0, 3), st.lists(seen | said, max_size=60))
def test_nothing_goes_on_without_a_yes_and_enough_people(
    policy: RolloutPolicy, approvals: int, events: list[Tick | Command]
) -> None:
    """Whatever happens: no step and no weight without an answer to that very question."""
    state = Rollout(
        "e", 1, "m:1", "m:2", check_policy(policy), "s", 0, "alice", approvals=approvals
    )
    for event in events:
        try:
            after, line = (
                command(state, event) if isinstance(event, Command) else tick(state, event)
            )
        except SalverError:
            continue
        if after.weight > state.weight or (after.state, state.is_active) == (PROMOTED, True):
            assert isinstance(event, Tick)
            assert event.answer == YES
            assert state.asked is not None
            assert state.asked.sequence <= state.sequence
        if after.state == PROMOTED and approvals:
            names = {name.strip().lower() for name in after.approved_by}
            assert len(names) >= approvals
            assert names - {"alice"}
        if line is not None and line.kind not in ("ask", "approve"):
            assert after.asked is None
        state = after


def test_a_step_is_taken_when_webhooks_say_yes() -> None:
    """What is asked is written down first, and the step is taken with the newest comparison."""
    state, line = tick(rollout(), good(0))
    assert line is not None
    assert (line.kind, line.sequence, state.step, state.weight) == ("ask", 1, -1, 0)
    assert "desk" in line.reason
    assert "chat" not in line.reason
    assert walk(state, *[good(0)] * 20) == msgspec.structs.replace(state, step_s=21.0)
    state, line = tick(state, good(0, answer=YES))
    assert (state.step, state.weight, state.asked) == (0, 500, None)
    state = walk(state, good(20))
    held = walk(state, good(20, HOLD, YES))
    assert (held.step, held.asked) == (0, state.asked)
    assert walk(held, good(20, ADVANCE, YES)).weight == 2500


def test_a_no_pauses_and_resuming_asks_anew() -> None:
    """The reason is in the history, the weights stay, and an old yes counts for nothing."""
    asked = walk(rollout(), good(0))
    paused, line = tick(asked, good(0, answer=NO))
    assert line is not None
    assert (line.kind, line.state, line.weight) == ("pause", PAUSED, 0)
    assert "not today" in line.reason
    resumed, _ = command(paused, Command("resume", "bob"))
    again = walk(resumed, good(0, answer=YES))
    assert (again.step, again.state) == (-1, RUNNING)
    assert asked.asked is not None
    assert again.asked is not None
    assert again.asked.sequence > asked.asked.sequence


@pytest.mark.parametrize("kind", [HOLD, ADVANCE])
def test_a_no_is_heard_while_the_judge_holds(kind: str) -> None:
    """The one who said it does not wait for more requests until the rollout stands still."""
    asked = walk(rollout(steps=(500, 2500, FULL)), good(0), good(0, answer=YES), good(20))
    assert asked.asked is not None
    paused, line = tick(asked, good(20, kind, NO))
    assert line is not None
    assert (paused.state, paused.asked, line.kind) == (PAUSED, None, "pause")
    assert "not today" in line.reason


@pytest.mark.parametrize("answer", [None, YES])
def test_what_is_stuck_pauses_though_a_person_has_asked(answer: Answer | None) -> None:
    """Webhooks that are slow do not hide that somebody has to look; the question is withdrawn."""
    asked, _ = command(at_the_end(), Command("promote", "bob"))
    assert asked.state == RUNNING
    failed = Tick(1.0, True, True, problem="the analysis failed", answer=answer)
    paused, line = tick(asked, failed)
    assert line is not None
    assert (paused.state, paused.asked, line.reason) == (PAUSED, None, "the analysis failed")
    away = asked
    for _ in range(20):
        away = walk(away, Tick(5.0, True, False))
    assert away.state == PAUSED
    assert "the primary, cannot answer" in away.reason


def test_harm_waits_for_no_webhook() -> None:
    """A canary that is worse is rolled back while a webhook is still asked."""
    state = walk(at_the_end(auto=True), good(20, PROMOTE))
    assert state.asked is not None
    ended, line = tick(state, good(20, ROLL_BACK))
    assert ended.state == ROLLED_BACK
    assert line is not None
    assert [notice.event for notice in notices(ended, line)] == []


def test_a_person_asks_webhooks_too_unless_forced() -> None:
    """A promotion by hand is done when they say yes, whatever is judged meanwhile."""
    state = walk(at_the_end(), good(20, PROMOTE))
    assert (state.state, state.awaits) == (PAUSED, PROMOTION)
    asked, line = command(state, Command("promote", "bob", "go"))
    assert line is not None
    assert (line.kind, line.actor, asked.state) == ("ask", "bob", PAUSED)
    with pytest.raises(Conflict, match="--force"):
        command(asked, Command("promote", "bob"))
    assert walk(asked, good(30, PAUSE)).asked == asked.asked
    promoted, line = tick(asked, good(30, PAUSE, YES))
    assert line is not None
    assert (promoted.state, line.actor, line.reason) == (PROMOTED, "bob", "go")
    refused = walk(asked, good(30, PAUSE, NO))
    assert (refused.state, refused.awaits, refused.asked) == (PAUSED, PROMOTION, None)
    forced, _ = command(asked, Command("promote", "bob", force=True))
    assert forced.state == PROMOTED


def test_weights_by_hand_are_asked_about_when_they_rise() -> None:
    """Less traffic for the canary needs nobody's leave."""
    state = walk(rollout(strategy=MANUAL), good(0))
    assert (state.step, state.weight) == (0, 0)
    asked, _ = command(state, Command("weight", "alice", weight=2000))
    assert (asked.weight, asked.asked is not None) == (0, True)
    state = walk(asked, good(0, answer=YES))
    assert state.weight == 2000
    lowered, _ = command(state, Command("weight", "alice", weight=100))
    assert (lowered.weight, lowered.asked) == (100, None)


def test_a_promotion_waits_for_approvals_and_goes_on_by_itself() -> None:
    """Once enough people approve, the comparison leads to the promotion, if it still allows it."""
    made = rollout(2, steps=(500, FULL), auto=True, webhooks=())
    state = walk(made, good(0), good(20, PROMOTE))
    assert (state.state, state.awaits, state.weight) == (PAUSED, APPROVAL, 500)
    assert "0 of 2 approvals" in state.reason
    with pytest.raises(Conflict, match="salver rollout approve e"):
        command(state, Command("resume", "alice"))
    with pytest.raises(ApprovalMissing, match="0 of 2"):
        command(state, Command("promote", "alice"))
    state, _ = command(state, Command("approve", "alice"))
    assert (state.state, state.awaits) == (PAUSED, APPROVAL)
    with pytest.raises(Conflict, match="counts once"):
        command(state, Command("approve", " Alice"))
    state, line = command(state, Command("approve", "bob", "looks well"))
    assert line is not None
    assert (line.kind, line.actor, line.reason) == ("approve", "bob", "looks well")
    assert line.evidence["approvals"]["by"] == ["alice", "bob"]
    assert (state.state, state.awaits) == (RUNNING, "")
    assert walk(state, good(30, HOLD)).state == RUNNING
    assert walk(state, good(30, PROMOTE)).state == PROMOTED
    assert walk(state, good(30, ROLL_BACK)).state == ROLLED_BACK


def test_who_began_it_does_not_approve_alone() -> None:
    """Four eyes: one approval of another person's is needed, whatever the number."""
    made = rollout(1, steps=(500, FULL), webhooks=())
    state = walk(made, good(0), good(20, PROMOTE))
    own, _ = command(state, Command("approve", "ALICE"))
    assert own.awaits == APPROVAL
    with pytest.raises(ApprovalMissing, match="nobody but alice"):
        command(own, Command("promote", "alice"))
    both, _ = command(own, Command("approve", "bob"))
    assert (both.state, both.awaits) == (PAUSED, PROMOTION)
    assert command(both, Command("promote", "alice"))[0].state == PROMOTED
    early, _ = command(walk(made, good(0)), Command("approve", "bob"))
    assert walk(early, good(20, PROMOTE)).awaits == PROMOTION


def test_where_none_are_demanded_nobody_approves() -> None:
    """An approval that means nothing is refused, and the history begins with those there are."""
    with pytest.raises(Conflict, match="demands no approvals"):
        command(rollout(), Command("approve", "bob"))
    known = msgspec.structs.replace(rollout(2), approved_by=("carol",), digest="d1")
    assert begun(known).evidence == {"approvals": {"needed": 2, "by": ["carol"], "digest": "d1"}}
    assert begun(rollout()).evidence == {}


def test_webhooks_are_told_of_their_events() -> None:
    """Each gets what it asked for, with the step that is meant and no address of anybody's."""
    state = at_the_end(auto=True)
    asked, line = tick(state, good(20, PROMOTE))
    assert line is not None
    (notice,) = notices(asked, line)
    assert (notice.webhook, notice.event) == (DESK, BEFORE_STEP)
    facts = notice.facts
    assert (facts["step"], facts["steps"], facts["weight"]) == (2, 2, 100.0)
    assert (facts["from"], facts["to"], facts["endpoint"]) == ("m:1", "m:2", "e")
    assert "example" not in str(facts)
    promoted, line = tick(asked, good(20, PROMOTE, YES))
    assert line is not None
    assert [(n.webhook.name, n.event) for n in notices(promoted, line)] == [("desk", "promoted")]
    paused, line = command(state, Command("pause", "bob", "lunch"))
    assert line is not None
    (notice,) = notices(paused, line)
    assert (notice.webhook.name, notice.facts["reason"]) == ("chat", "lunch")
