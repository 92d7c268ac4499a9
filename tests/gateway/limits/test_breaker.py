"""The circuit breaker of one variant, against a model of what it promises."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from salver.gateway.limits.breaker import Breaker, BreakerPolicy, Ends, State

POLICY = BreakerPolicy(0.5, 10, 1000, 100, 350, 2)


def state(breaker: Breaker) -> str:
    """Return the state, which may be another one at each look."""
    return breaker.state.value


def opened(breaker: Breaker, now_ns: int) -> None:
    """Let a breaker open."""
    breaker.record("alice", Ends(0, POLICY.min_requests), now_ns)
    assert state(breaker) == State.OPEN


def test_it_opens_when_too_many_fail() -> None:
    """Below the part, or with too few requests, it stays closed; then it opens."""
    breaker = Breaker(POLICY)
    breaker.record("alice", Ends(0, 9), 0)
    assert state(breaker) == State.CLOSED
    breaker.record("alice", Ends(10, 0), 1)
    breaker.record("alice", Ends(0, 0), 2)
    assert state(breaker) == State.CLOSED
    breaker.record("alice", Ends(0, 1), 3)
    assert state(breaker) == State.OPEN


def test_what_is_long_ago_does_not_count() -> None:
    """Failures before the window do not add to those in it."""
    breaker = Breaker(POLICY)
    breaker.record("alice", Ends(0, 9), 0)
    breaker.record("alice", Ends(0, 9), 1000)
    assert state(breaker) == State.CLOSED
    breaker.record("alice", Ends(0, 1), 1999)
    assert state(breaker) == State.OPEN


def test_one_caller_cannot_open_it_for_others() -> None:
    """However many requests of one caller fail, it stays closed while others are answered.

    It opens when others fail as well.
    """
    breaker = Breaker(POLICY)
    breaker.record("bob", Ends(3, 0), 0)
    for now_ns in range(100):
        breaker.record("poisoner", Ends(0, 100), now_ns)
    assert state(breaker) == State.CLOSED
    breaker.record("bob", Ends(0, 3), 100)
    assert state(breaker) == State.OPEN


def test_a_model_that_answers_nobody_in_time_is_given_a_pause() -> None:
    """Whether one caller asks or several; one answer in the window says that it only is busy."""
    for callers in (["alice"], ["alice", "bob"]):
        breaker = Breaker(POLICY)
        for number in range(POLICY.min_requests):
            assert state(breaker) == State.CLOSED
            breaker.record(callers[number % len(callers)], Ends(stalled=1), number)
        assert state(breaker) == State.OPEN
    busy = Breaker(POLICY)
    busy.record("bob", Ends(answered=1), 0)
    for now_ns in range(1, 900):
        busy.record(("alice", "carol")[now_ns % 2], Ends(stalled=1), now_ns)
    assert state(busy) == State.CLOSED
    busy.record("alice", Ends(stalled=1), 1_100)
    assert state(busy) == State.OPEN


def test_many_callers_take_no_more_memory() -> None:
    """Callers over a bound are counted together."""
    breaker = Breaker(POLICY)
    for number in range(1000):
        breaker.record(f"caller-{number}", Ends(1, 0), 0)
    assert len(breaker._slots[-1].by_caller) <= 65


def test_a_probe_that_says_nothing_is_followed_by_another() -> None:
    """A probe whose caller left, or that was refused, gives its place to the next."""
    breaker = Breaker(POLICY)
    opened(breaker, 0)
    assert breaker.admit(100)
    assert breaker.admit(100)
    assert not breaker.admit(100)
    breaker.probed(good=None, now_ns=101)
    assert breaker.admit(101)
    assert not breaker.admit(101)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_pauses_double_until_it_closes(ends: list[bool]) -> None:
    """Each failed probe doubles the pause up to the longest; after it closed they start over."""
    breaker, now_ns, pause_ns = Breaker(POLICY), 0, 100
    opened(breaker, now_ns)
    for good in ends:
        assert breaker.wait_ns(now_ns) == pause_ns
        assert not breaker.admit(now_ns + pause_ns - 1)
        now_ns += pause_ns
        assert breaker.admit(now_ns)
        if not good:
            breaker.probed(good=False, now_ns=now_ns)
            pause_ns = min(2 * pause_ns, 350)
            continue
        breaker.probed(good=True, now_ns=now_ns)
        assert state(breaker) == State.HALF_OPEN
        assert breaker.admit(now_ns)
        breaker.probed(good=True, now_ns=now_ns)
        assert state(breaker) == State.CLOSED
        opened(breaker, now_ns)
        pause_ns = 100


class BreakerMachine(RuleBasedStateMachine):
    """Any order of events, beside what has been said of each state."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(POLICY)
        self.now_ns = 0
        self.out = 0
        self.good = 0
        self.opened_ns = 0

    @rule(step_ns=st.integers(0, 400))
    def wait(self, step_ns: int) -> None:
        """Let time pass."""
        self.now_ns += step_ns

    @rule(
        caller=st.sampled_from(["a", "b", "c"]),
        answered=st.integers(0, 8),
        failed=st.integers(0, 8),
        stalled=st.integers(0, 8),
    )
    def record(self, caller: str, answered: int, failed: int, stalled: int) -> None:
        """Requests end; a breaker that is not closed does not mind."""
        before = self.breaker.state
        self.breaker.record(caller, Ends(answered, failed, stalled), self.now_ns)
        if before is not State.CLOSED or not failed + stalled:
            assert self.breaker.state is before
        elif self.breaker.state is State.OPEN:
            self.opened_ns = self.now_ns

    @rule()
    def ask(self) -> None:
        """A request passes while it is closed, waits out the pause, or is a probe."""
        before = self.breaker.state
        passed = self.breaker.admit(self.now_ns)
        if before is State.CLOSED:
            assert passed
            return
        if before is State.OPEN:
            if passed:
                assert self.now_ns - self.opened_ns >= POLICY.open_ns
                self.out = self.good = 0
            else:
                assert self.breaker.wait_ns(self.now_ns) > 0
        self.out += passed
        assert self.out + self.good <= POLICY.probes

    @rule(good=st.sampled_from([True, False, None]))
    def end(self, good: bool | None) -> None:
        """A probe ends."""
        if self.breaker.state is not State.HALF_OPEN or not self.out:
            return
        self.out -= 1
        self.breaker.probed(good=good, now_ns=self.now_ns)
        self.good += good is True
        if good is False:
            assert state(self.breaker) == State.OPEN
            self.opened_ns, self.out = self.now_ns, 0
        elif self.good == POLICY.probes:
            assert state(self.breaker) == State.CLOSED

    @invariant()
    def is_never_stuck(self) -> None:
        """Whatever happened, some time later a request passes, unless enough probes are out."""
        if self.breaker.state is State.OPEN:
            assert 0 <= self.breaker.wait_ns(self.now_ns) <= POLICY.max_open_ns
        elif self.breaker.state is State.HALF_OPEN and not self.out:
            assert self.good < POLICY.probes


TestBreakerMachine = BreakerMachine.TestCase
