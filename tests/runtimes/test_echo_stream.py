"""The streaming contract, on the runtime made for it."""

import threading

import numpy as np
import pytest

from salver.core.errors import InvalidTensor, SalverError
from salver.runtimes.base import Batch
from salver.runtimes.echo_stream import EchoStreamRuntime


class Collector:
    """A sink that keeps chunks and can stop listening after some."""

    def __init__(self, limit: int = 1000) -> None:
        self.words: list[bytes] = []
        self.done = threading.Event()
        self.error: SalverError | None = None
        self._limit = limit

    def chunk(self, outputs: Batch) -> bool:
        """Keep a chunk."""
        self.words.append(outputs["word"][0])
        return len(self.words) < self._limit

    def finish(self) -> None:
        """Note the end."""
        self.done.set()

    def fail(self, error: SalverError) -> None:
        """Note the error."""
        self.error = error
        self.done.set()


def text(value: bytes) -> Batch:
    """Return one text as a batch."""
    return {"text": np.array([value], dtype=object)}


def test_chunks_come_in_order_and_end() -> None:
    """Each word is a chunk, in order, then the end."""
    sink = Collector()
    EchoStreamRuntime().submit(text(b"one two three"), sink)
    assert sink.done.wait(10)
    assert sink.words == [b"one", b"two", b"three"]


def test_nobody_listening_ends_the_work() -> None:
    """When the sink says that nobody listens, no more chunks are made."""
    sink = Collector(limit=2)
    EchoStreamRuntime().submit(text(b"a b c d e"), sink)
    assert sink.done.wait(10)
    assert sink.words == [b"a", b"b"]


def test_bad_input_is_refused_at_once() -> None:
    """A missing text is refused before a thread is begun."""
    with pytest.raises(InvalidTensor):
        EchoStreamRuntime().submit({}, Collector())
