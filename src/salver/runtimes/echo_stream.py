"""A streaming runtime without a model: answers a text word by word. For tests of streams."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from salver.core.errors import InvalidTensor
from salver.core.signature import VARIABLE, Signature, TensorSpec
from salver.runtimes.base import Batch, RuntimeOptions, Sink

INPUT = "text"
OUTPUT = "word"
SIGNATURE = Signature(
    (TensorSpec(INPUT, "BYTES", (VARIABLE,)),), (TensorSpec(OUTPUT, "BYTES", (VARIABLE,)),)
)


class EchoStreamRuntime:
    """One chunk for each word of the first element."""

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load nothing."""

    def signature(self) -> Signature | None:
        """Return the fixed signature."""
        return SIGNATURE

    def submit(self, inputs: Batch, sink: Sink) -> Callable[[], None]:
        """Begin to send the words from a thread of its own."""
        if INPUT not in inputs or inputs[INPUT].size == 0:
            raise InvalidTensor("give one text")
        words = bytes(inputs[INPUT].ravel()[0]).split()
        cancelled = threading.Event()
        threading.Thread(
            target=_send, args=(words, sink, cancelled), daemon=True, name="echo-stream"
        ).start()
        return cancelled.set

    def unload(self) -> None:
        """Release nothing."""


def _send(words: list[bytes], sink: Sink, cancelled: threading.Event) -> None:
    for word in words:
        if cancelled.is_set():
            break
        if not sink.chunk({OUTPUT: np.array([word], dtype=object)}):
            break
    sink.finish()
