"""What an endpoint's replicas follow, and how fast."""

import msgspec

CONCURRENCY, RATE, QUEUE = "concurrency", "rate", "queue"
METRICS = (CONCURRENCY, RATE, QUEUE)


class Pace(msgspec.Struct, frozen=True):
    """How quickly replicas follow.

    What is asked is averaged over ``stable_s``, and over ``panic_s`` to notice bursts: when that
    asks for ``panic_threshold`` times the ready workers, panic begins and only growth is allowed
    until ``stable_s`` after it last did. One decision makes at most ``most_growth`` times as many
    of the ready workers and leaves at least one in ``most_shrinkage``.
    """

    stable_s: float = 60.0
    panic_s: float = 6.0
    panic_threshold: float = 2.0
    most_growth: float = 1000.0
    most_shrinkage: float = 2.0


class Policy(msgspec.Struct, frozen=True):
    """Bounds and measure of one endpoint.

    ``target`` is what one worker takes: open requests, or requests a second; for the queue it is
    how many seconds a request may wait. Fewer are made only when that has been wanted for
    ``delay_s``.
    """

    least: int
    most: int
    metric: str
    target: float
    delay_s: float = 60.0
    pace: Pace = Pace()

    def clamp(self, count: int) -> int:
        """Return the allowed number that is nearest."""
        return max(self.least, min(self.most, count))
