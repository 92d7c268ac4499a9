"""How many frames that cost the server more than the client a connection may send."""

from salver.core.clock import Clock


class Budget:
    """A token bucket: ``burst`` at once, ``per_second`` in the long run."""

    __slots__ = ("_burst", "_clock", "_left", "_per_second", "_since_ns")

    def __init__(self, burst: int, per_second: int, clock: Clock) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left = float(burst)
        self._since_ns = clock.monotonic_ns()

    def spend(self) -> bool:
        """Take one; False when nothing is left."""
        if self._left < 1.0:
            now_ns = self._clock.monotonic_ns()
            gained = (now_ns - self._since_ns) * self._per_second / 1e9
            self._since_ns = now_ns
            self._left = min(float(self._burst), self._left + gained)
            if self._left < 1.0:
                return False
        self._left -= 1.0
        return True
