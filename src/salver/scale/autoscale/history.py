"""What was used lately, in pieces of time, and its averages."""

from collections import deque
from typing import NamedTuple

_S_NS = 1_000_000_000


class Usage(NamedTuple):
    """Sums, or divided by seconds averages.

    ``open_s`` adds up how long each request was open, ``run_s`` how long the batch ran that it was
    part of; ``asked`` counts requests that came, ``finished`` those that ended. A second's growth
    of ``open_s`` is how many were open at a time.
    """

    open_s: float = 0.0
    asked: float = 0.0
    finished: float = 0.0
    run_s: float = 0.0

    def plus(self, other: "Usage", share: float = 1.0) -> "Usage":
        """Return the sum with a share of another."""
        return Usage(*(mine + share * its for mine, its in zip(self, other, strict=True)))


class Piece(NamedTuple):
    """What one process saw from ``start_ns`` to ``stop_ns``."""

    start_ns: int
    stop_ns: int
    usage: Usage


class History:
    """The pieces of one endpoint, of all processes; those that are too old must be pruned."""

    def __init__(self, began_ns: int) -> None:
        self.began_ns = began_ns
        self._pieces: deque[Piece] = deque()

    def add(self, piece: Piece) -> None:
        """Take a piece; one without duration is left out."""
        if piece.stop_ns > piece.start_ns:
            self._pieces.append(piece)

    def prune(self, oldest_ns: int) -> None:
        """Forget what ended before ``oldest_ns``."""
        self._pieces = deque([piece for piece in self._pieces if piece.stop_ns > oldest_ns])

    def mean(self, start_ns: int, stop_ns: int, least_s: float) -> Usage:
        """Return the average per second between two times, as far as there is history.

        A piece that lies in it in part counts for that part. What is shorter than ``least_s`` is
        taken for that long, so that a moment says little.
        """
        start_ns = max(start_ns, self.began_ns)
        total = Usage()
        for piece in self._pieces:
            inside_ns = min(piece.stop_ns, stop_ns) - max(piece.start_ns, start_ns)
            if inside_ns > 0:
                total = total.plus(piece.usage, inside_ns / (piece.stop_ns - piece.start_ns))
        seconds = max((stop_ns - start_ns) / _S_NS, least_s)
        return Usage().plus(total, 1 / seconds) if seconds > 0 else Usage()
