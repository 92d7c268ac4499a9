"""Times in which the primary could not answer, and what was counted then: it compares nothing.

Failures of a primary that is gone say nothing of the canary, and beside them any canary is better.
"""

import msgspec

MIN_S = 5.0
"""An absence that is shorter, or seen at one look only, is a failure of the primary like others."""


class Gaps(msgspec.Struct, frozen=True):
    """Which weight epochs are left out: from and to of each absence that is over.

    ``since`` is the first weight epoch of the absence that goes on, 0 if there is none, and
    ``begun`` that of one which may still turn out short.
    """

    over: tuple[tuple[int, int], ...] = ()
    since: int = 0
    begun: int = 0

    def __len__(self) -> int:
        """Return how many there were, with the one that goes on."""
        return len(self.over) + (self.since > 0)

    def leave_out_the_same(self, other: "Gaps") -> bool:
        """Tell whether what was counted is compared alike under both."""
        return (self.over, self.since) == (other.over, other.since)

    def has(self, epoch: int) -> bool:
        """Tell whether what was counted in a weight epoch is left out."""
        if 0 < self.since <= epoch:
            return True
        return any(first <= epoch <= last for first, last in self.over)

    def seen(self, away_s: float, epoch: int) -> "Gaps":
        """Return them after a look at a primary that is away for so long, 0 if it can answer.

        ``epoch`` is the newest of which something is counted, 0 if there is none.
        """
        if away_s <= 0.0:
            return self._back(epoch)
        if self.since:
            return self
        if self.begun and away_s >= MIN_S:
            return Gaps(self.over, self.begun)
        return Gaps(self.over, 0, self.begun or epoch)

    def _back(self, epoch: int) -> "Gaps":
        if not self.since:
            return Gaps(self.over)
        if epoch < self.since:
            # What was counted is not known yet, as after a restart of control.
            return self
        return Gaps((*self.over, (self.since, epoch)))
