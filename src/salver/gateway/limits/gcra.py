"""How often a caller may ask: the generic cell rate algorithm (GCRA) on whole nanoseconds.

Of each caller one number is kept: the moment at which it will have used up nothing any more. A
request moves that moment one interval ahead, and is admitted while it stays within the burst. So
in any stretch of time no more are admitted than the burst and what the rate allows meanwhile.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable

from salver.core.context import Rate

_SECOND_NS = 1_000_000_000


class Gcra:
    """The arithmetic of one rate; all times are monotonic nanoseconds.

    ``share`` is the part of the rate that is granted here, one of so many equal ones.
    """

    __slots__ = ("capacity_ns", "interval_ns")

    def __init__(self, rate: Rate, share: int = 1) -> None:
        self.interval_ns = math.ceil(_SECOND_NS * share / rate.per_s)
        self.capacity_ns = max(1, rate.burst // share) * self.interval_ns

    def spare_ns(self, free_ns: int, now_ns: int) -> int:
        """Return how much of the burst is left to a caller who is free again at ``free_ns``."""
        return min(self.capacity_ns, max(0, self.capacity_ns - (free_ns - now_ns)))

    def owed_ns(self, free_ns: int, now_ns: int) -> int:
        """Return when a caller is free again who owes no more than a whole burst.

        One who used up the burst of another rate may owe far more than this one ever lends.
        """
        return min(free_ns, now_ns + self.capacity_ns)

    def room(self, free_ns: int, now_ns: int) -> int:
        """Return how many requests would be admitted now."""
        return self.spare_ns(free_ns, now_ns) // self.interval_ns

    def taken(self, free_ns: int, now_ns: int, count: int) -> int:
        """Return when the caller is free again after so many requests, which there was room for."""
        spare_ns = self.spare_ns(free_ns, now_ns) - count * self.interval_ns
        return now_ns + self.capacity_ns - spare_ns

    def wait_ns(self, free_ns: int, now_ns: int) -> int:
        """Return how long it takes until the next request is admitted; 0 for at once."""
        return max(0, self.interval_ns - self.spare_ns(free_ns, now_ns))


class UseTable:
    """When callers are free again; who asked longest ago is forgotten when there are too many.

    A forgotten caller is like one who never asked, so the table must hold all who ask often.
    """

    def __init__(self, max_callers: int) -> None:
        self._max = max_callers
        self._free_ns: OrderedDict[Hashable, int] = OrderedDict()

    def __len__(self) -> int:
        """Count the callers that are remembered."""
        return len(self._free_ns)

    def get(self, caller: Hashable) -> int:
        """Return when a caller is free again; long ago for one who is not known."""
        return self._free_ns.get(caller, 0)

    def put(self, caller: Hashable, free_ns: int) -> None:
        """Remember when a caller is free again."""
        table = self._free_ns
        table[caller] = free_ns
        table.move_to_end(caller)
        if len(table) > self._max:
            table.popitem(last=False)
