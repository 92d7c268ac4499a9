"""Requests that wait for room, taken in turns between their callers: deficit round robin.

Each caller has a lane of its own. A turn gives a lane some credit, and lets it spend what it has
on its oldest requests; what a request costs is how many rows it has. So callers get equal shares
of the rows, however many requests they have waiting.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

QUANTUM = 8
MAX_COST = 64

Item = TypeVar("Item", bound=Hashable)


class _Lane(Generic[Item]):
    """What one caller has waiting, oldest first, with the cost of each."""

    __slots__ = ("credit", "items")

    def __init__(self) -> None:
        self.items: OrderedDict[Item, int] = OrderedDict()
        self.credit = QUANTUM


class FairQueue(Generic[Item]):
    """Bounded for each caller and for all together; items are compared by identity.

    ``count`` is how many wait; ``max_items`` may be changed at any time.
    """

    def __init__(self, max_items: int, max_per_caller: int) -> None:
        self.count = 0
        self.max_items = max_items
        self._max_per_caller = max_per_caller
        self._lanes: OrderedDict[Hashable, _Lane[Item]] = OrderedDict()

    def __iter__(self) -> Iterator[Item]:
        """Go over what waits; it may be removed meanwhile."""
        return iter([item for lane in self._lanes.values() for item in lane.items])

    def push(self, caller: Hashable, item: Item, cost: int) -> Item | None:
        """Let an item wait; returns the one that must not, if there is no room for all.

        That is the new one, unless somebody else has more waiting: then it is that one's newest.
        """
        lane = self._lanes.get(caller)
        waiting = 0 if lane is None else len(lane.items)
        if waiting >= self._max_per_caller:
            return item
        given_up: Item | None = None
        if self.count >= self.max_items:
            longest = max(self._lanes, key=lambda one: len(self._lanes[one].items), default=None)
            if longest is None or len(self._lanes[longest].items) <= waiting + 1:
                return item
            given_up = next(reversed(self._lanes[longest].items))
            self.remove(longest, given_up)
        if lane is None:
            lane = self._lanes[caller] = _Lane()
        lane.items[item] = min(max(1, cost), MAX_COST)
        self.count += 1
        return given_up

    def remove(self, caller: Hashable, item: Item) -> bool:
        """Let an item wait no longer; False if it does not wait."""
        lane = self._lanes.get(caller)
        if lane is None or lane.items.pop(item, None) is None:
            return False
        self.count -= 1
        if not lane.items:
            del self._lanes[caller]
        return True

    def pop(self) -> Item | None:
        """Take the next item, None if nothing waits."""
        lanes = self._lanes
        while lanes:
            caller, lane = next(iter(lanes.items()))
            item, cost = next(iter(lane.items.items()))
            if cost <= lane.credit:
                lane.credit -= cost
                self.remove(caller, item)
                return item
            lane.credit += QUANTUM
            lanes.move_to_end(caller)
        return None
