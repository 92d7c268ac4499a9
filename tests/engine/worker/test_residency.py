"""The policy of a memory budget, against a simulated process."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from salver.engine.worker.residency import Residency, Verdict

NAMES = tuple(f"m{index}" for index in range(8))
BASE = 100


class Worker(RuleBasedStateMachine):
    """A process whose models take what they take, and which follows what the policy says.

    ``unexplained`` is memory beside its models: buffers, gaps in the heap, leaks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        self.seen: set[str] = set()
        self.pinned: set[str] = set()
        self.used: dict[str, int] = {}
        self.loaded: set[str] = set()
        self.busy: set[str] = set()
        self.unexplained = 0
        self.now = 0

    @initialize(budget=st.integers(BASE, 600))
    def start(self, budget: int) -> None:
        """Begin with nothing loaded."""
        self.policy = Residency(budget, BASE)

    @property
    def resident(self) -> int:
        """What the process occupies."""
        return BASE + self.unexplained + sum(self.sizes[name] for name in self.loaded)

    def idle(self) -> dict[str, int]:
        """Return the models that are in memory and have nothing to do."""
        return {name: self.used[name] for name in self.loaded - self.busy}

    def tick(self) -> int:
        """Let time pass."""
        self.now += 1
        return self.now

    @rule(
        name=st.sampled_from(NAMES),
        size=st.integers(1, 300),
        more=st.integers(0, 300),
        pinned=st.booleans(),
    )
    def deploy(self, name: str, size: int, more: int, pinned: bool) -> None:
        """Make a model known with the size it will turn out to have, or pin and unpin it."""
        if name not in self.sizes:
            self.peaks[name] = size + more
            self.seen -= {name}
        size = self.sizes.setdefault(name, size)
        self.policy.know(name, size, pinned=pinned)
        self.pinned -= {name}
        self.pinned |= {name} if pinned else set()

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def undeploy(self, data: st.DataObject) -> None:
        """Forget a model that has nothing to do."""
        names = sorted(self.sizes.keys() - self.busy)
        if names:
            name = data.draw(st.sampled_from(names))
            self.policy.forget(name)
            del self.sizes[name]
            self.loaded -= {name}
            self.pinned -= {name}

    @precondition(lambda self: self.sizes)
    @rule(data=st.data(), holds=st.booleans())
    def ask(self, data: st.DataObject, holds: bool) -> None:
        """Ask a model for something, and perhaps hold it; load it if it is out."""
        name = data.draw(st.sampled_from(sorted(self.sizes)))
        if name not in self.loaded:
            self._load(name)
        if name in self.loaded:
            self.used[name] = self.tick()
            self.busy |= {name} if holds else set()

    def _load(self, name: str) -> None:
        resident, idle = self.resident, self.idle()
        decision = self.policy.decide(name, resident, idle)
        reserved = sum(self.sizes[one] for one in self.pinned - {name})
        never = BASE + reserved + self.sizes[name] > self.policy.budget_bytes
        assert (decision.verdict is Verdict.NEVER) == never
        may_leave = self.loaded - self.pinned
        if decision.verdict is Verdict.WAIT:
            assert may_leave & self.busy, "there is nobody to wait for"
            least = resident - sum(self.sizes[one] for one in may_leave - self.busy)
            assert least + self.sizes[name] > self.policy.budget_bytes, "there was room"
        if decision.verdict is not Verdict.LOAD:
            assert not decision.victims
            return
        peak = max(3 * self.sizes[name], self.peaks[name] if name in self.seen else 0)
        most = self.policy.budget_bytes + int(0.05 * self.policy.budget_bytes)
        over = resident + self.sizes[name] - self.policy.budget_bytes
        beside = BASE + self.unexplained
        crowded = beside + sum(self.sizes.values()) > self.policy.budget_bytes
        if crowded:
            over = max(over, resident + peak - most)
        self._leave(decision.victims, over)
        if crowded and self.resident + peak > most:
            left = sum(self.sizes[one] for one in may_leave & self.loaded - self.busy)
            assert self.resident - left + peak > most, "more could have left"
        self.loaded |= {name}
        self.used[name] = self.tick()
        self.policy.came(name, self.sizes[name], self.peaks[name])
        self.seen |= {name}
        if self.resident > self.policy.budget_bytes:
            # Only what the models do not explain may lead there, and only with nothing to evict.
            assert self.unexplained
            assert not (may_leave - set(decision.victims))

    def _leave(self, victims: tuple[str, ...], over: int) -> None:
        """Check that those who leave may, had the longest rest, and are no more than needed."""
        idle = self.idle()
        assert len(set(victims)) == len(victims)
        for one in victims:
            assert one in self.loaded, "it is not there"
            assert one not in self.busy, "it has work"
            assert one not in self.pinned, "it is pinned"
            assert over > 0, "there was room already"
            rested = min(at for name, at in idle.items() if name not in self.pinned)
            assert idle.pop(one) == rested, "another one rested longer"
            over -= self.sizes[one]
            self.loaded -= {one}
            self.policy.left(one)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Let a model have nothing to do any more."""
        self.busy -= {data.draw(st.sampled_from(sorted(self.busy)))}

    @rule(size=st.integers(-200, 300))
    def grow(self, size: int) -> None:
        """Occupy more or less memory that no model explains, then send away what is over."""
        self.unexplained = max(0, self.unexplained + size)
        assert self.policy.unexplained_bytes(self.resident) == self.unexplained
        over = self.resident - self.policy.budget_bytes
        self._leave(self.policy.surplus(self.resident, self.idle()), over)
        if self.resident > self.policy.budget_bytes:
            assert not self.loaded - self.busy - self.pinned, "somebody could have left"

    @invariant()
    def counts(self) -> None:
        """What the policy believes to be in memory is there."""
        if self.sizes:
            assert self.policy.models_in == len(self.loaded)
            assert self.policy.models_bytes == sum(self.sizes[name] for name in self.loaded)


TestWorker = Worker.TestCase
TestWorker.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_the_one_used_longest_ago_leaves() -> None:
    """Of three models with room for two, the third takes the place of the first one used."""
    policy = Residency(BASE + 20, BASE)
    for name in ("a", "b", "c"):
        policy.know(name, 10, pinned=False)
    policy.came("a", 10)
    policy.came("b", 10)
    policy.came("c", 10, 11)
    policy.left("c")
    assert policy.decide("c", BASE + 20, {"a": 2, "b": 1}) == (Verdict.LOAD, ("b",))
    assert policy.decide("c", BASE + 20, {"a": 2}) == (Verdict.LOAD, ("a",))
    assert policy.decide("c", BASE + 20, {}) == (Verdict.WAIT, ())


def test_a_measured_size_replaces_the_guess() -> None:
    """A model that turns out larger than its files no longer fits."""
    policy = Residency(BASE + 20, BASE)
    policy.know("a", 10, pinned=False)
    assert policy.fits("a")
    policy.came("a", 21)
    policy.left("a")
    assert policy.decide("a", BASE, {}).verdict is Verdict.NEVER


def test_more_leave_for_what_a_load_takes_for_a_moment() -> None:
    """If that helps: nobody waits for it, and nobody leaves in vain."""
    policy = Residency(480, BASE)
    for name in ("a", "b", "c"):
        policy.know(name, 100, pinned=False)
        policy.came(name, 100, 200)
    policy.know("d", 100, pinned=False)
    policy.left("c")
    idle = {"a": 1, "b": 2}
    assert policy.decide("c", BASE + 200, idle) == (Verdict.LOAD, ("a",))
    assert policy.decide("c", BASE + 200, {}) == (Verdict.LOAD, ())
    policy.came("c", 100, 1000)
    policy.left("c")
    assert policy.decide("c", BASE + 200, idle) == (Verdict.LOAD, ())


def test_models_that_fit_together_are_read_once() -> None:
    """None leaves for what reading another takes for a moment, since it would be back at once."""
    policy = Residency(800, BASE)
    used: dict[str, int] = {}
    for name in ("a", "b", "c"):
        policy.know(name, 200, pinned=False)
    for name in ("a", "b", "c"):
        decision = policy.decide(name, BASE + policy.models_bytes, used)
        assert decision == (Verdict.LOAD, ())
        policy.came(name, 200, 600)
        used[name] = len(used)
