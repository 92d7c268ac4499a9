"""No step is skipped, what has ended has ended, and nothing seen is never success."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import Conflict, InvalidRequest, NotReady, SalverError
from salver.core.rollouts import (
    BLUE_GREEN,
    MANUAL,
    RolloutPolicy,
    basis_points,
    check_policy,
    steps_of,
)
from salver.core.routing import FULL
from salver.rollout.machine import (
    ADVANCE,
    CRASHES,
    HOLD,
    MAX_TICK_S,
    PAUSE,
    PAUSED,
    PRIMARY_AWAY_S,
    PROMOTE,
    PROMOTED,
    PROMOTION,
    ROLL_BACK,
    ROLLED_BACK,
    RUNNING,
    Command,
    Finding,
    Rollout,
    Tick,
    Transition,
    begun,
    command,
    tick,
)

COMMANDS = ("pause", "resume", "promote", "abort", "weight")


def rollout(**policy: object) -> Rollout:
    """Return a rollout that has just begun."""
    given_policy = msgspec.structs.replace(RolloutPolicy(min_requests=10), **policy)
    return Rollout("e", 1, "m:1", "m:2", check_policy(given_policy), "salt", 0, "alice")


def good(requests: int, kind: str = ADVANCE) -> Tick:
    """Return a second in which all is well."""
    return Tick(1.0, True, True, requests, Finding(kind, "no metric is worse"))


def walk(state: Rollout, *seen: Tick) -> Rollout:
    """Return the rollout after these ticks."""
    for one in seen:
        state, _ = tick(state, one)
    return state


def prepared(**policy: object) -> Rollout:
    """Return a rollout in its first step."""
    state = walk(rollout(**policy), Tick(1.0, True, True, 0))
    assert state.step == 0
    return state


ticks = st.builds(
    Tick,
    st.floats(-1e9, 1e9),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(0, 1000),
    st.none()
    | st.builds(
        Finding, st.sampled_from((HOLD, ADVANCE, PAUSE, PROMOTE, ROLL_BACK)), st.text(max_size=5)
    ),
    st.sampled_from(("", "", "", "", "broken file")),
    st.sampled_from(("", "", "", "it raised")),
    st.sampled_from((0, 0, 0, 1)),
)
wishes = st.builds(
    Command,
    st.sampled_from(COMMANDS),
    st.just("alice"),
    st.just(""),
    st.integers(-5, 10_005),
    st.booleans(),
)
policies = st.builds(
    RolloutPolicy,
    st.sampled_from(("canary", BLUE_GREEN, MANUAL)),
    st.sampled_from(((500, FULL), (100, 500, 2500, FULL))),
    st.booleans(),
    st.integers(0, 50),
    st.floats(0, 10),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 100),
)


def apply(state: Rollout, event: Tick | Command) -> tuple[Rollout, Transition | None]:
    """Return what an event makes of a rollout; a refused wish changes nothing."""
    try:
        return command(state, event) if isinstance(event, Command) else tick(state, event)
    except SalverError:
        return state, None


@given(policies, st.lists(ticks | wishes, max_size=60))
def test_no_step_is_skipped_and_the_end_is_the_end(
    policy: RolloutPolicy, events: list[Tick | Command]
) -> None:
    """Whatever happens: steps rise one by one, transitions are numbered, ends are final."""
    state = Rollout("e", 1, "m:1", "m:2", check_policy(policy), "salt", 0, "alice")
    for event in events:
        after, transition = apply(state, event)
        if not state.is_active:
            assert (after, transition) == (state, None)
        assert after.step in (state.step, state.step + 1)
        assert after.sequence == state.sequence + (transition is not None)
        if transition is None:
            assert (after.state, after.step, after.weight) == (
                state.state,
                state.step,
                state.weight,
            )
        else:
            assert (transition.state, transition.step) == (after.state, after.step)
            assert transition.sequence == after.sequence
        if after.step != state.step:
            assert state.state == RUNNING
        if after.state == PROMOTED and state.is_active:
            by_hand = isinstance(event, Command) and event.kind == "promote" and event.is_ready
            assert by_hand or policy.auto
            assert by_hand or (state.is_last and state.step >= 0)
        limit_s = MAX_TICK_S if isinstance(event, Tick) and state.state == RUNNING else 0.0
        assert after.running_s <= state.running_s + limit_s
        if isinstance(event, Tick):
            assert after.running_s >= state.running_s
        state = after


@given(policies, st.lists(ticks, max_size=40))
def test_without_findings_nothing_is_ever_promoted(
    policy: RolloutPolicy, events: list[Tick]
) -> None:
    """No traffic, missing metrics and analyses that raise pause, and never promote a canary."""
    policy = msgspec.structs.replace(policy, strategy="canary")
    state = Rollout("e", 1, "m:1", "m:2", check_policy(policy), "salt", 0, "alice")
    for event in events:
        state, _ = tick(state, msgspec.structs.replace(event, finding=None))
        assert state.state != PROMOTED
        assert state.step <= 0


@given(policies, st.lists(ticks, max_size=30))
def test_pauses_keep_everything_but_rolling_back(policy: RolloutPolicy, events: list[Tick]) -> None:
    """While it is paused no time passes and no step comes; harm still rolls back."""
    state = Rollout("e", 1, "m:1", "m:2", check_policy(policy), "salt", 0, "alice")
    state, _ = command(state, Command("pause", "alice"))
    for event in events:
        after, transition = tick(state, event)
        assert after.running_s == state.running_s
        assert after.weight == state.weight or after.state == ROLLED_BACK
        assert transition is None or after.state == ROLLED_BACK
        state = after


def test_a_good_canary_goes_through_every_step() -> None:
    """Each step takes its own requests; the last is the promotion."""
    state = rollout(auto=True)
    weights = []
    for number in range(100):
        kind = PROMOTE if state.is_last else ADVANCE
        state, transition = tick(state, good(5 * number, kind))
        if transition is not None:
            weights.append((transition.kind, state.weight, number))
    assert weights == [
        ("step", 500, 0), ("step", 2500, 2), ("step", 5000, 4), ("promote", FULL, 6),
    ]  # fmt: skip
    assert state.state == PROMOTED


def test_a_person_is_asked_before_the_promotion() -> None:
    """Without auto the last step pauses, only promote or abort go on, and harm rolls back."""
    state = prepared(steps=(500, FULL))
    state = walk(state, good(20, PROMOTE))
    assert (state.state, state.awaits, state.weight) == (PAUSED, PROMOTION, 500)
    with pytest.raises(Conflict, match="promote"):
        command(state, Command("resume", "alice"))
    with pytest.raises(NotReady):
        command(state, Command("promote", "alice", is_ready=False))
    promoted, transition = command(state, Command("promote", "alice"))
    assert promoted.state == PROMOTED
    assert transition is not None
    assert transition.actor == "alice"
    assert walk(state, good(30, ROLL_BACK)).state == ROLLED_BACK


def test_a_judge_that_says_advance_does_not_promote() -> None:
    """All traffic moves only when the judge says so itself."""
    state = prepared(steps=(500, FULL), auto=True)
    assert walk(state, good(100, ADVANCE)).state == RUNNING
    assert walk(state, good(100, PROMOTE)).state == PROMOTED


def test_too_few_requests_hold_a_step() -> None:
    """A finding counts when the canary had its requests and time in this very step."""
    state = prepared(step_s=3.0)
    state = walk(state, *[good(9)] * 10)
    assert state.step == 0
    assert walk(state, good(10)).step == 1
    assert walk(prepared(step_s=3.0), good(10), good(10)).step == 0


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (Tick(1.0, True, True, 0, problem="the analysis raised ValueError"), "ValueError"),
        (Tick(1.0, True, True, 0, Finding(PAUSE, "the ratio is off")), "ratio"),
    ],
)
def test_what_is_not_known_pauses(seen: Tick, why: str) -> None:
    """An analysis that raises and a judge in doubt ask a person."""
    state = walk(prepared(), seen)
    assert state.state == PAUSED
    assert why in state.reason


def test_a_canary_without_traffic_pauses() -> None:
    """Traffic that stops, or never comes, or cannot be counted does not advance anything."""
    for requests in (0, None):
        state = walk(prepared(no_traffic_s=60.0), *[good(0)] * 0)
        one = msgspec.structs.replace(good(0), requests=requests)
        state = walk(state, *[one] * 61)
        assert state.state == PAUSED
        assert "no request" in state.reason
    state = walk(prepared(no_traffic_s=60.0), *[good(9)] * 62)
    assert state.state == PAUSED
    assert state.step == 0


def test_an_analysis_that_takes_long_is_no_lack_of_requests() -> None:
    """What came meanwhile is known when it ends; if it came to nothing, the time counts."""
    unknown = Tick(1.0, True, True)
    state = walk(prepared(no_traffic_s=10.0), good(9), *[unknown] * 20)
    assert state.state == RUNNING
    assert walk(state, good(10)).state == RUNNING
    assert "no request" in walk(state, good(9)).reason


def test_a_primary_that_disappears_pauses() -> None:
    """A short absence holds, a long one asks a person; findings of that time do not count."""
    gone = msgspec.structs.replace(good(50, PROMOTE), is_primary_ready=False)
    state = walk(prepared(auto=True), *[gone] * int(PRIMARY_AWAY_S - 1))
    assert (state.state, state.step) == (RUNNING, 0)
    state = walk(state, gone)
    assert state.state == PAUSED
    assert "m:1" in state.reason
    assert walk(prepared(), gone, good(50)).away_s == 0.0


def test_what_cannot_be_loaded_or_stay_up_is_rolled_back() -> None:
    """Load failures and crash loops end a rollout, also while it is paused."""
    broken = Tick(1.0, False, True, failure="digest differs")
    assert walk(rollout(), broken).state == ROLLED_BACK
    paused, _ = command(prepared(), Command("pause", "alice"))
    assert walk(paused, broken).state == ROLLED_BACK
    crashed = [msgspec.structs.replace(good(0, HOLD), crashes=n) for n in range(CRASHES + 1)]
    state = walk(paused, *[crashed[CRASHES - 1]] * 5, crashed[0])
    assert (state.state, state.crashes) == (PAUSED, CRASHES - 1)
    assert walk(state, crashed[CRASHES]).state == ROLLED_BACK


def test_time_stops_in_a_pause_and_begins_anew_after_it_was_over() -> None:
    """Resuming goes on with the time that is left; one that ran out gets all of it again."""
    state = walk(prepared(max_duration_s=20.0, min_requests=1000), *[good(n) for n in range(1, 10)])
    assert state.running_s == 9.0
    state, _ = command(state, Command("pause", "alice", "lunch"))
    state = walk(state, *[good(50)] * 100)
    state, _ = command(state, Command("resume", "alice"))
    assert state.running_s == 9.0
    state = walk(state, *[good(n) for n in range(51, 70)])
    assert state.state == PAUSED
    assert "taken" in state.reason
    state, _ = command(state, Command("resume", "alice"))
    assert (state.state, state.running_s) == (RUNNING, 0.0)


def test_a_pause_does_not_stop_the_warm_up() -> None:
    """A canary that has traffic is exposed to it, paused or not, and stays so when resumed."""
    state = walk(rollout(max_duration_s=3.0), Tick(1.0, True, True, 0))
    assert state.exposed_s == 0.0
    state, _ = command(state, Command("pause", "alice"))
    state = walk(state, *[good(n) for n in range(20)])
    assert (state.state, state.running_s, state.exposed_s) == (PAUSED, 0.0, 20.0)
    state, _ = command(state, Command("resume", "alice"))
    state = walk(state, *[good(20, HOLD)] * 3)
    assert (state.state, state.running_s) == (PAUSED, 3.0)
    state, _ = command(state, Command("resume", "alice"))
    assert (state.running_s, state.exposed_s) == (0.0, 23.0)


def test_a_new_version_without_traffic_is_not_exposed() -> None:
    """The warm-up of a manual rollout begins with its first weight, and outlasts a weight of 0."""
    state = walk(prepared(strategy=MANUAL), *[good(0)] * 5)
    assert state.exposed_s == 0.0
    for weight, exposed_s in ((2000, 4.0), (0, 8.0)):
        state, _ = command(state, Command("weight", "alice", weight=weight))
        state = walk(state, *[good(0)] * 4)
        assert state.exposed_s == exposed_s


def test_without_a_time_limit_resuming_sets_no_clock_back() -> None:
    """A limit of 0 is none, and none has run out."""
    state = walk(prepared(max_duration_s=0.0), *[good(0, HOLD)] * 7)
    state, _ = command(state, Command("pause", "alice"))
    state, _ = command(state, Command("resume", "alice"))
    assert state.running_s == 7.0


def test_a_clock_that_jumps_does_no_harm() -> None:
    """A jump ahead counts for a few seconds, one back for none."""
    state = prepared(max_duration_s=60.0, no_traffic_s=60.0)
    state = walk(state, msgspec.structs.replace(good(0, HOLD), elapsed_s=1e9))
    state = walk(state, msgspec.structs.replace(good(0, HOLD), elapsed_s=-1e9))
    assert state.state == RUNNING
    assert state.running_s == MAX_TICK_S


def test_blue_green_switches_at_once() -> None:
    """A person promotes it as soon as it can answer; by itself it is after a look at copies."""
    ready = Tick(1.0, True, True, 0)
    for auto in (True, False):
        asked = walk(rollout(strategy=BLUE_GREEN, auto=auto), ready, good(50, PROMOTE))
        assert (asked.state, asked.awaits) == (PAUSED, PROMOTION)
        assert "no copies" in asked.reason
    assert command(asked, Command("promote", "alice"))[0].state == PROMOTED
    state = walk(rollout(strategy=BLUE_GREEN, auto=True, sample=5000), ready)
    assert (state.state, state.step, state.weight) == (RUNNING, 0, 0)
    assert walk(state, good(20, PROMOTE)).state == PROMOTED


def test_a_manual_rollout_does_what_a_person_says() -> None:
    """Findings move nothing; the weight and the promotion are a person's, harm still rolls back."""
    state = prepared(strategy=MANUAL)
    state, transition = command(state, Command("weight", "alice", weight=2000))
    assert transition is not None
    assert (state.weight, transition.weight) == (2000, 2000)
    state = walk(state, *[good(n * 100, PROMOTE) for n in range(20)])
    assert (state.state, state.weight) == (RUNNING, 2000)
    assert walk(state, good(5000, ROLL_BACK)).state == ROLLED_BACK
    for weight in (-1, FULL):
        with pytest.raises(InvalidRequest):
            command(state, Command("weight", "alice", weight=weight))
    with pytest.raises(Conflict, match="manual"):
        command(prepared(), Command("weight", "alice", weight=2000))


def test_a_version_that_is_not_ready_cannot_be_promoted() -> None:
    """Before the gates are passed not even a person gives it traffic."""
    with pytest.raises(NotReady):
        command(rollout(), Command("promote", "alice"))
    with pytest.raises(NotReady):
        command(rollout(strategy=MANUAL), Command("weight", "alice", weight=100))


def test_ended_rollouts_take_no_wishes() -> None:
    """Each is refused with what happened."""
    ended, _ = command(prepared(), Command("abort", "alice"))
    assert (ended.state, ended.weight) == (ROLLED_BACK, 0)
    for kind in COMMANDS:
        with pytest.raises(Conflict, match="rolled_back"):
            command(ended, Command(kind, "alice"))
    with pytest.raises(Conflict):
        command(prepared(), Command("resume", "alice"))
    with pytest.raises(InvalidRequest):
        command(prepared(), Command("fly", "alice"))
    assert begun(rollout()).sequence == 0


def test_steps_are_read_as_people_write_them() -> None:
    """Percents become basis points; the last step is all traffic."""
    assert steps_of("5, 25%,0.01") == (500, 2500, 1)
    assert check_policy(RolloutPolicy(steps=(500,))).steps == (500, FULL)
    for percent in ("x", "-1", "101", "0.001", "nan", "1e30"):
        with pytest.raises(InvalidRequest):
            basis_points(percent)
    for steps in ((), (0, FULL), (500, 500), (2500, 500), (FULL,), tuple(range(1, 40))):
        with pytest.raises(InvalidRequest):
            check_policy(RolloutPolicy(steps=steps))
    for wrong in (
        {"strategy": "x"}, {"min_requests": -1}, {"sample": 5}, {"max_duration_s": float("nan")},
        {"strategy": BLUE_GREEN, "sample": FULL + 1},
    ):  # fmt: skip
        with pytest.raises(InvalidRequest):
            check_policy(msgspec.structs.replace(RolloutPolicy(), **wrong))
