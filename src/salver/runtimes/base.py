"""The two contracts a runtime can offer.

A ``BatchRuntime`` takes a whole batch and returns a whole batch, synchronously. A
``StreamRuntime`` takes one request and delivers chunks through a sink, from any thread.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from salver.core.errors import SalverError
from salver.core.hosting import CPU
from salver.core.settings import EngineSettings
from salver.core.signature import Signature
from salver.core.tensor import AnyArray

Batch = dict[str, AnyArray]


class RuntimeOptions(NamedTuple):
    """What the host grants a runtime.

    Compute threads, whether pickles and code may run, how much memory the tensors of a batch
    may take after a step that makes more of them, and what to compute with
    (``core.hosting.PROVIDERS``), where there is a choice.
    """

    threads: int = 1
    trust_pickle: bool = False
    trust_code: bool = False
    step_bytes: int = EngineSettings().step_bytes
    provider: str = CPU


class Runtime(Protocol):
    """What both contracts share."""

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the artifact whose verified files lie in ``folder``.

        ``signature`` is None while a pushed model is examined for the first time. Raises
        ``LoadFailed`` when the files cannot be loaded.
        """
        ...

    def signature(self) -> Signature | None:
        """Return what the loaded model says of itself, or None when only an example can tell."""
        ...

    def unload(self) -> None:
        """Release the model's memory; harmless when nothing is loaded."""
        ...


def provider_of(runtime: Runtime) -> str:
    """Return what a loaded runtime computes with, "" where it does not say."""
    return str(getattr(runtime, "provider", ""))


def most_rows_of(runtime: Runtime) -> int | None:
    """Return how many rows a loaded runtime takes at once, None where it does not say."""
    rows = getattr(runtime, "most_rows", None)
    return None if rows is None else int(rows)


class BatchRuntime(Runtime, Protocol):
    """Executes batches."""

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch.

        ``batch`` maps each input's name to an array whose first axis is the batch, unless the
        signature says otherwise; ``outputs`` of None means all. Rows keep their order. Arrays
        given may be read-only. Raises ``ModelFailed`` when the model rejects the values and
        ``InvalidTensor`` for names, datatypes or shapes it cannot take.
        """
        ...


class Sink(Protocol):
    """Where a stream's chunks go; safe to call from any thread."""

    def chunk(self, outputs: Batch) -> bool:
        """Deliver one chunk; False tells that nobody listens and the work should end.

        Blocks the calling thread while the receiver has given no credit.
        """
        ...

    def finish(self) -> None:
        """Say that the last chunk was delivered."""
        ...

    def fail(self, error: SalverError) -> None:
        """End the stream with an error."""
        ...


class StreamRuntime(Runtime, Protocol):
    """Executes requests that answer in chunks."""

    def submit(self, inputs: Batch, sink: Sink) -> Callable[[], None]:
        """Begin one request and return at once; the returned call cancels it."""
        ...
