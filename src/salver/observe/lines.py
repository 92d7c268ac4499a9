"""Lines of a process's own log, which nobody fails of: what cannot be written is counted."""

import os
import sys
from collections.abc import Callable

_NOBODY = -1


class Lines:
    """Writes whole lines to a descriptor, unbuffered.

    A line that cannot be written, as on a full disk or to a reader that is gone, is lost and
    counted. Before the next one that can be, ``told(lost, cause)`` words a line that says so.
    """

    def __init__(self, descriptor: int, told: Callable[[int, str], str]) -> None:
        self._descriptor = descriptor
        self._told = told
        self._is_torn = False
        self._cause = ""
        self.lost = 0

    def write(self, line: str) -> None:
        """Write a line, given without its end; raises nothing."""
        text = f"{line}\n"
        if self.lost:
            text = f"{self._told(self.lost, self._cause)}\n{text}"
        if self._is_torn:
            text = f"\n{text}"
        if self._put(text.encode(errors="backslashreplace")):
            self.lost, self._is_torn = 0, False
        else:
            self.lost += 1

    def _put(self, data: bytes) -> bool:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self._cause = error.strerror or str(error)
            self._is_torn = self._is_torn or len(rest) < len(data)
            return False
        return True


def stderr() -> int:
    """Return the descriptor of standard error, or one that takes nothing where there is none."""
    return _NOBODY if sys.__stderr__ is None else sys.__stderr__.fileno()


def say(text: str) -> None:
    """Tell the person who reads standard error, if it can be told; raises nothing."""
    _said.write(f"salver: {text}")


def _told(lost: int, cause: str) -> str:
    return f"salver: {lost} lines before this one could not be written ({cause})"


_said = Lines(stderr(), _told)
