"""The one error of the bench: what went wrong, and what to do about it."""

from __future__ import annotations


class BenchError(RuntimeError):
    """A measurement cannot be made; the message names the cause and the fix."""
