"""What is counted while the primary is gone is in no comparison, before or after it is back."""

import asyncio

import msgspec
import pytest

from salver.control.rollouts.analyst import Analyst, Look, with_columns
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.lane import Lane
from salver.control.rollouts.view import shown
from salver.core.clock import ManualClock
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.rollout.columns import Columns
from salver.rollout.gaps import MIN_S, Gaps
from salver.rollout.machine import ADVANCE, HOLD, ROLL_BACK, Command, Rollout, Tick, command, tick
from salver.wire.messages import Evidence
from tests.control.test_rollout_evidence import counted, plan

ERRORS = {"name": "errors", "kind": "error_rate", "max_increase": 0.01}
ANALYSIS = {"warmup_s": 0, "warmup_requests": 1, "metrics": [ERRORS]}
POLICY = check_policy(RolloutPolicy(min_requests=100, analysis=ANALYSIS))
HERE = Tick(1.0, is_ready=True, is_primary_ready=True)
GONE = Tick(1.0, is_ready=True, is_primary_ready=False)


class Course:
    """A rollout whose plans and counts are made by hand, and which is analysed as control does."""

    def __init__(self) -> None:
        self.books = EvidenceBooks()
        self.books.open("e", 1, {})
        self.rollout = Rollout(
            "e", 1, "m:1", "m:2", POLICY, "salt", 0, "alice", step=0, weight=5000
        )
        self.columns: Columns | None = None

    def look(self) -> Look:
        """Look at the evidence, and count from now on what that asks for."""
        analyst = Analyst(self.books, None, None)  # type: ignore[arg-type]
        found = asyncio.run(analyst.look(self.rollout, None, Lane("look", ManualClock())))  # type: ignore[arg-type]
        self.rollout = with_columns(self.rollout, found)
        return found

    def begin(self, epoch: int) -> None:
        """Have gateways count in a new weight epoch what the rollout asks for."""
        self.columns = msgspec.msgpack.decode(self.rollout.columns, type=Columns)
        assert self.books.begin(self.rollout, plan(epoch, self.columns))

    def take(self, arm: str, requests: int, failed: int) -> None:
        """Take what a gateway has counted of an arm in the newest epoch."""
        assert self.columns is not None
        evidence = counted(self.columns, arm, requests, failed)
        epoch = self.books.newest_epoch("e")
        self.books.take("g1", msgspec.structs.replace(evidence, epoch=epoch))

    def pass_by(self, seen: Tick, seconds: int) -> None:
        """Let so many seconds pass in which the same is seen."""
        for _ in range(seconds):
            now = msgspec.structs.replace(seen, epoch=self.books.newest_epoch("e"))
            self.rollout, _ = tick(self.rollout, now)


@pytest.fixture
def course() -> Course:
    """Give a rollout that compares its arms in weight epoch 8."""
    given = Course()
    given.look()
    given.begin(7)
    given.take("canary", 10, 0)
    given.pass_by(HERE, 1)
    given.look()
    given.begin(8)
    return given


def errors(look: Look) -> tuple[str, int]:
    """Return what is said of errors, and of how many requests to the canary."""
    assert look.finding is not None
    (line,) = look.finding.evidence["metrics"]
    return line["verdict"], line["n_canary"]


def test_failures_of_a_primary_that_was_gone_excuse_no_canary(course: Course) -> None:
    """A canary that fails is found once both answer, however many requests the primary lost."""
    course.take("canary", 1500, 150)
    course.take("primary", 1500, 1500)
    assert errors(course.look()) == ("better", 1500)
    course.pass_by(GONE, 6)
    look = course.look()
    assert look.finding is not None
    assert look.finding.kind == HOLD
    assert "cannot answer" in look.finding.reason
    course.pass_by(HERE, 1)
    before = course.rollout.columns
    look = course.look()
    assert look.finding is not None
    assert "nothing was counted since" in look.finding.reason
    assert course.rollout.columns != before
    course.begin(9)
    course.take("canary", 1500, 150)
    course.take("primary", 1500, 0)
    look = course.look()
    assert errors(look) == ("worse", 1500)
    assert look.finding is not None
    assert look.finding.kind == ROLL_BACK
    assert look.requests == 10 + 1500 + 1500


def test_what_was_counted_before_stays_and_leads_to_no_step(course: Course) -> None:
    """Epochs that ended before the primary went are compared, and none of them stands for this one.

    The step wants its own requests, counted since the primary is back.
    """
    course.take("canary", 1500, 0)
    course.take("primary", 1500, 0)
    course.begin(9)
    course.take("canary", 700, 700)
    course.take("primary", 700, 700)
    course.pass_by(GONE, 6)
    course.pass_by(HERE, 1)
    look = course.look()
    assert errors(look)[1] == 1500
    assert look.finding is not None
    assert look.finding.kind == HOLD
    course.begin(10)
    assert look.finding.kind == HOLD
    course.rollout, line = tick(course.rollout, tick_of(course.look()))
    assert line is None
    course.take("canary", 90, 0)
    course.take("primary", 90, 0)
    course.rollout, line = tick(course.rollout, tick_of(course.look()))
    assert line is None
    course.books.take("g2", epoch_10("canary", 60, course))
    course.books.take("g2", epoch_10("primary", 60, course))
    look = course.look()
    assert look.finding is not None
    assert look.finding.kind == ADVANCE
    course.rollout, line = tick(course.rollout, tick_of(look))
    assert line is not None
    assert line.kind == "step"


def tick_of(look: Look) -> Tick:
    """Return a tick that brings what a look has found."""
    return msgspec.structs.replace(HERE, requests=look.requests, finding=look.finding)


def epoch_10(arm: str, requests: int, course: Course) -> Evidence:
    """Return what another gateway has counted in epoch 10."""
    assert course.columns is not None
    return msgspec.structs.replace(counted(course.columns, arm, requests, 0), epoch=10)


def test_harm_that_was_shown_before_is_acted_on_meanwhile(course: Course) -> None:
    """An absence saves no canary that has done harm in an epoch that is over."""
    course.take("canary", 1500, 150)
    course.take("primary", 1500, 0)
    course.begin(9)
    course.pass_by(GONE, 6)
    look = course.look()
    assert look.finding is not None
    assert look.finding.kind == ROLL_BACK


def test_the_epoch_in_which_it_went_is_left_out_too(course: Course) -> None:
    """Also where another began before the absence was long enough to be one."""
    course.take("canary", 700, 0)
    course.pass_by(GONE, 2)
    course.begin(9)
    course.pass_by(GONE, 4)
    assert course.rollout.gaps.since == 8
    course.pass_by(HERE, 1)
    assert course.rollout.gaps == Gaps(((8, 9),))


def test_one_look_alone_shows_no_absence(course: Course) -> None:
    """After a while in which nobody looked, workers may only not have come back to control yet."""
    course.pass_by(msgspec.structs.replace(GONE, elapsed_s=60.0), 1)
    course.pass_by(HERE, 1)
    assert course.rollout.gaps == Gaps()


def test_an_end_that_nothing_is_known_of_ends_no_absence(course: Course) -> None:
    """Until control knows what was counted, it cannot know what to leave out."""
    course.pass_by(GONE, 6)
    course.rollout, _ = tick(course.rollout, HERE)
    assert course.rollout.gaps.since == 8
    course.pass_by(HERE, 1)
    assert course.rollout.gaps == Gaps(((8, 8),))


def test_without_traffic_there_is_nothing_to_leave_out(course: Course) -> None:
    """A canary that was set back to 0 % has had its last epoch before the primary went."""
    course.rollout = msgspec.structs.replace(course.rollout, weight=0)
    course.pass_by(GONE, 6)
    assert course.rollout.gaps == Gaps()


def test_a_short_absence_is_a_failure_like_others(course: Course) -> None:
    """It begins no weight epoch and leaves nothing out."""
    course.take("canary", 1500, 0)
    course.take("primary", 1500, 20)
    for _ in range(3):
        course.pass_by(GONE, int(MIN_S) - 1)
        course.pass_by(HERE, 1)
    assert course.rollout.gaps == Gaps()
    before = course.rollout.columns
    assert errors(course.look())[1] == 1500
    assert course.rollout.columns == before


def test_an_absence_in_a_pause_is_one(course: Course) -> None:
    """Traffic goes on in a pause, and so do the primary's failures; resuming forgets no absence."""
    course.take("canary", 1500, 0)
    course.take("primary", 1500, 1500)
    course.rollout, _ = command(course.rollout, Command("pause", "alice"))
    course.pass_by(GONE, 6)
    course.rollout, _ = command(course.rollout, Command("resume", "alice"))
    course.pass_by(HERE, 1)
    assert course.rollout.gaps == Gaps(((8, 8),))
    assert shown(course.rollout, None)["gaps"] == 1


def test_every_absence_begins_an_epoch(course: Course) -> None:
    """Each leaves out the epoch that it befell, and no other."""
    for epoch in (9, 10):
        course.pass_by(GONE, 6)
        assert len(course.rollout.gaps) == epoch - 8
        course.pass_by(HERE, 1)
        course.look()
        course.begin(epoch)
    assert course.rollout.gaps == Gaps(((8, 8), (9, 9)))
    assert [course.rollout.gaps.has(epoch) for epoch in (7, 8, 9, 10)] == [False, True, True, False]


def test_a_rollout_that_counts_nothing_has_no_gaps() -> None:
    """Before a canary has traffic there is nothing to leave out."""
    course = Course()
    course.pass_by(GONE, 10)
    assert course.rollout.gaps == Gaps()
