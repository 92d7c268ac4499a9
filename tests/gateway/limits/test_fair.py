"""Taking turns: nothing is lost, bounds hold, and nobody waits for more than its fair share."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from salver.gateway.limits.fair import MAX_COST, QUANTUM, FairQueue

CALLERS = ("alice", "bob", "carol", "dave")


class Item:
    """Something that waits."""

    def __init__(self, number: int, caller: str, cost: int) -> None:
        self.number = number
        self.caller = caller
        self.cost = min(max(1, cost), MAX_COST)


class FairMachine(RuleBasedStateMachine):
    """Any order of events, beside a list for each caller."""

    MAX, PER_CALLER = 12, 6

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Item] = FairQueue(self.MAX, self.PER_CALLER)
        self.lanes: dict[str, list[Item]] = {caller: [] for caller in CALLERS}
        self.numbers = itertools.count()

    @rule(caller=st.sampled_from(CALLERS), cost=st.integers(0, 100))
    def push(self, caller: str, cost: int) -> None:
        """An item waits, or exactly one is given up: itself, or the longest lane's newest."""
        item = Item(next(self.numbers), caller, cost)
        waiting = {one: len(items) for one, items in self.lanes.items()}
        given_up = self.queue.push(caller, item, cost)
        if waiting[caller] >= self.PER_CALLER:
            assert given_up is item
        elif sum(waiting.values()) < self.MAX:
            assert given_up is None
        if given_up is not item:
            self.lanes[caller].append(item)
        if given_up is not None and given_up is not item:
            longest = self.lanes[given_up.caller]
            assert longest.pop() is given_up
            assert waiting[given_up.caller] == max(waiting.values()) > waiting[caller] + 1

    @rule()
    def pop(self) -> None:
        """The oldest item of some lane comes."""
        item = self.queue.pop()
        if item is None:
            assert not any(self.lanes.values())
        else:
            assert self.lanes[item.caller].pop(0) is item

    @rule(caller=st.sampled_from(CALLERS), place=st.integers(0, 5))
    def remove(self, caller: str, place: int) -> None:
        """An item leaves, once."""
        items = self.lanes[caller]
        if place < len(items):
            item = items.pop(place)
            assert self.queue.remove(caller, item)
            assert not self.queue.remove(caller, item)

    @invariant()
    def holds_what_waits(self) -> None:
        """It holds exactly what was put in and has not come out, in order, within the bounds."""
        assert self.queue.count == sum(map(len, self.lanes.values())) <= self.MAX
        held: dict[str, list[Item]] = {caller: [] for caller in CALLERS}
        for item in self.queue:
            held[item.caller].append(item)
        assert held == self.lanes


TestFairMachine = FairMachine.TestCase

costs = st.lists(st.integers(1, MAX_COST), min_size=1, max_size=30)


@given(st.dictionaries(st.sampled_from(CALLERS), costs, min_size=2))
def test_those_who_wait_get_equal_shares(lanes: dict[str, list[int]]) -> None:
    """At any moment, callers that still have something waiting have had about as much."""
    queue: FairQueue[Item] = FairQueue(1000, 1000)
    numbers = itertools.count()
    for caller, lane in lanes.items():
        for cost in lane:
            assert queue.push(caller, Item(next(numbers), caller, cost), cost) is None
    left = {caller: len(lane) for caller, lane in lanes.items()}
    had = dict.fromkeys(lanes, 0)
    while (item := queue.pop()) is not None:
        had[item.caller] += item.cost
        left[item.caller] -= 1
        waiting = [had[caller] for caller, count in left.items() if count]
        if waiting:
            assert max(waiting) - min(waiting) <= 2 * QUANTUM + MAX_COST
    assert not any(left.values())


@given(st.integers(1, 200), st.integers(0, 100), st.integers(1, 3))
def test_a_flood_does_not_hold_a_newcomer_up(flood: int, taken: int, floods: int) -> None:
    """Who comes with one request is next after one turn of each of the others, at the latest."""
    queue: FairQueue[Item] = FairQueue(1000, 1000)
    for caller in CALLERS[:floods]:
        for number in range(flood):
            queue.push(caller, Item(number, caller, 1), 1)
    for _ in range(min(taken, floods * flood - 1)):
        queue.pop()
    newcomer = Item(0, "dave", 1)
    queue.push("dave", newcomer, 1)
    before = 0
    while queue.pop() is not newcomer:
        before += 1
    assert before <= floods * QUANTUM


def test_one_caller_alone_is_served_in_order() -> None:
    """Without others it is a queue."""
    queue: FairQueue[Item] = FairQueue(100, 100)
    items = [Item(number, "alice", 64) for number in range(20)]
    for item in items:
        queue.push("alice", item, 64)
    assert [queue.pop() for _ in items] == items
    assert queue.pop() is None
