"""One at a time over all versions of a quarantine worker."""

from collections import deque
from collections.abc import Callable


class Turn:
    """Whoever holds the turn loads or runs; the others are called back in order.

    A process that dies then dies of the one request it was busy with. ``begun`` is called when a
    run of code begins, with whether others wait for their turn.
    """

    def __init__(self, begun: Callable[[bool], None]) -> None:
        self.begun = begun
        self._taken = False
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, again: Callable[[], None]) -> bool:
        """Take the turn; False means that ``again`` is called when it is worth another try."""
        if self._taken:
            self._waiting.append(again)
            return False
        self._taken = True
        return True

    def release(self) -> None:
        """Give the turn to the next."""
        self._taken = False
        self.offer()

    def offer(self) -> None:
        """Call the next, if the turn is free; for those who were called and had nothing to do."""
        if not self._taken and self._waiting:
            self._waiting.popleft()()
