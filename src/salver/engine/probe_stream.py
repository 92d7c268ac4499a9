"""Tries a model that answers in chunks."""

import threading

from salver.core.datatypes import datatype_of
from salver.core.errors import InvalidArtifact, SalverError
from salver.core.signature import VARIABLE, TensorSpec
from salver.runtimes.base import Batch, StreamRuntime

_MAX_CHUNKS = 1000


def streamed(runtime: StreamRuntime, inputs: Batch) -> tuple[TensorSpec, ...]:
    """Run one stream to its end and return what its chunks are.

    Raises what the stream ends with, and ``InvalidArtifact`` for one without chunks.
    """
    sink = _Collector()
    runtime.submit(inputs, sink)
    sink.ended.wait()
    if sink.error is not None:
        raise sink.error
    if not sink.chunks:
        raise InvalidArtifact("the example gave no chunk; give one that is answered")
    return tuple(
        TensorSpec(name, datatype_of(array.dtype), (VARIABLE, *array.shape[1:]))
        for name, array in sink.chunks[0].items()
    )


class _Collector:
    """Keeps the first chunk; ends a stream that does not end by itself."""

    def __init__(self) -> None:
        self.chunks: list[Batch] = []
        self.error: SalverError | None = None
        self.ended = threading.Event()
        self._count = 0

    def chunk(self, outputs: Batch) -> bool:
        """Take a chunk; see ``runtimes.base.Sink``."""
        self._count += 1
        if not self.chunks:
            self.chunks.append(outputs)
        return self._count < _MAX_CHUNKS

    def finish(self) -> None:
        """Note the end."""
        self.ended.set()

    def fail(self, error: SalverError) -> None:
        """Note what went wrong."""
        self.error = error
        self.ended.set()
