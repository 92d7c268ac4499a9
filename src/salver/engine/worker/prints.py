"""What a model's code prints, as bounded events of the worker's log."""

import io
import sys
import threading
from typing import BinaryIO, TextIO

from salver.core.clock import Clock
from salver.observe.logs import get_logger

log = get_logger(__name__)

_MAX_LINE = 4096
_BURST_BYTES = 256 * 1024
_BYTES_PER_S = 16 * 1024


class Prints(io.TextIOBase):
    """A standard stream whose lines become log events, as many as the log can bear.

    At most 16 KiB a second in the long run, 256 KiB at once; what is over that is counted. What is
    written to the descriptor behind it, as child processes do, goes to the log uncounted.
    """

    encoding = "utf-8"

    def __init__(self, name: str, clock: Clock, behind: TextIO) -> None:
        super().__init__()
        self._name = name
        self._behind = behind
        self._clock = clock
        self._lock = threading.RLock()
        self._line = ""
        self._budget = float(_BURST_BYTES)
        self._filled_ns = clock.monotonic_ns()
        self._dropped = 0

    def fileno(self) -> int:
        """Return the descriptor of the stream that this stands for."""
        return self._behind.fileno()

    @property
    def buffer(self) -> BinaryIO:
        """The bytes of the stream that this stands for."""
        return self._behind.buffer

    def writable(self) -> bool:
        """Say that this can be written to."""
        return True

    def write(self, text: str, /) -> int:
        """Take text; whole lines go to the log."""
        with self._lock:
            *lines, rest = (self._line + text).split("\n")
            for line in lines:
                self._emit(line)
            while len(rest) > _MAX_LINE:
                self._emit(rest[:_MAX_LINE])
                rest = rest[_MAX_LINE:]
            self._line = rest
        return len(text)

    def flush(self) -> None:
        """Lines are written when they end; a line that has begun waits for its end."""

    def _emit(self, line: str) -> None:
        now_ns = self._clock.monotonic_ns()
        earned = (now_ns - self._filled_ns) / 1e9 * _BYTES_PER_S
        self._budget, self._filled_ns = min(_BURST_BYTES, self._budget + earned), now_ns
        shown = line[:_MAX_LINE]
        size_bytes = len(shown.encode(errors="replace")) + 1
        if size_bytes > self._budget:
            self._dropped += 1
            return
        self._budget -= size_bytes
        if self._dropped:
            log.warning("model_output_dropped", stream=self._name, lines=self._dropped)
            self._dropped = 0
        log.info("model_output", stream=self._name, text=shown)


def capture_prints(clock: Clock) -> None:
    """Send what this process prints from now on to its log; harmless when done before."""
    streams: dict[str, TextIO] = {"stdout": sys.stdout, "stderr": sys.stderr}
    for name, present in streams.items():
        if not isinstance(present, Prints):
            setattr(sys, name, Prints(name, clock, present))
