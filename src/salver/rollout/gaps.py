"""Times in which the primary could not answer, and what was counted then: it compares nothing.

Failures of a primary that is gone say nothing of the canary, and beside them any canary is better.
"""

import msgspec

MIN_S = 5.0
"""An absence that is shorter is a failure of the primary like others, and counts."""


class Gaps(msgspec.Struct, frozen=True):
    """Which weight epochs are left out: from and to of each absence that is over.

    ``since`` is the first weight epoch of the absence that goes on, 0 if there is none.
    """

    over: tuple[tuple[int, int], ...] = ()
    since: int = 0

    def __len__(self) -> int:
        """Return how many there were, with the one that goes on."""
        return len(self.over) + (self.since > 0)

    def has(self, epoch: int) -> bool:
        """Tell whether what was counted in a weight epoch is left out."""
        if 0 < self.since <= epoch:
            return True
        return any(first <= epoch <= last for first, last in self.over)

    def seen(self, away_s: float, epoch: int) -> "Gaps":
        """Return them after a look at a primary that is away for so long, 0 if it can answer.

        ``epoch`` is the newest of which something is counted, 0 if there is none.
        """
        if self.since == 0:
            return Gaps(self.over, epoch) if away_s >= MIN_S else self
        if away_s > 0.0:
            return self
        return Gaps((*self.over, (self.since, max(self.since, epoch))))
