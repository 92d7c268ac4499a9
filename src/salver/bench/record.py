"""What happened to every request of one run: exact, in arrays sized before it begins."""

from array import array

import numpy as np
import numpy.typing as npt

from salver.bench.schedule import Times

PENDING, OK = 0, 1
NO_CONNECTION, LATE = 2, 3
TIMEOUT, CONNECT_FAILED, CONNECTION_LOST, BAD_ANSWER, OTHER = 4, 5, 6, 7, 8
_NAMES = (
    "pending",
    "ok",
    "not_sent_no_connection",
    "not_sent_generator_late",
    "timeout",
    "connect_failed",
    "connection_lost",
    "bad_answer",
    "other",
)
_MAX_NAMES = 64

Integers = npt.NDArray[np.int64]


class Record:
    """One run's requests by number: when each was due, was sent and was answered, and how it ended.

    Times are readings of the injected monotonic clock in nanoseconds; 0 stands for never.
    """

    def __init__(self, times: Times, start_ns: int) -> None:
        self.due_ns = array("q", (times + start_ns).tobytes())
        self.count = len(self.due_ns)
        empty = bytes(8 * self.count)
        self.sent_ns = array("q", empty)
        self.done_ns = array("q", empty)
        self.outcomes = array("h", bytes(2 * self.count))
        self.names = list(_NAMES)
        self.bytes_sent = 0
        self.bytes_received = 0
        self.ended = 0

    def outcome_of(self, name: str) -> int:
        """Return the number of a kind of failure; beyond the first few it is ``OTHER``."""
        try:
            return self.names.index(name)
        except ValueError:
            if len(self.names) >= _MAX_NAMES:
                return OTHER
            self.names.append(name)
            return len(self.names) - 1

    def finish(self, index: int, outcome: int, done_ns: int) -> None:
        """Note how a request ended, and when."""
        self.outcomes[index] = outcome
        self.done_ns[index] = done_ns
        self.ended += 1


def integers(values: "array[int]") -> Integers:
    """Return an array's whole numbers to compute with, without a copy where they are 64 bits."""
    return np.frombuffer(values, np.dtype(values.typecode)).astype(np.int64, copy=False)
