"""Models that are code and answer in chunks: ``Model.predict_stream``."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from salver.artifact.declared_signature import declared_signature
from salver.core.clock import Clock, SystemClock
from salver.core.errors import LoadFailed, ModelFailed, Overloaded, SalverError
from salver.core.signature import Signature
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch, RuntimeOptions, Sink
from salver.runtimes.checks import check_batch, read_only
from salver.runtimes.code import Code
from salver.runtimes.code_outputs import checked
from salver.runtimes.ending import end_process
from salver.runtimes.python import POSTPROCESS, PREDICT, PREPROCESS, STREAM

_MAX_STREAMS = 16
_RETRY_AFTER_S = 1.0
_LOST_AFTER_NS = 5_000_000_000


class _Stream:
    """One stream that runs."""

    def __init__(self, clock: Clock) -> None:
        self.cancelled = threading.Event()
        self._clock = clock
        self._since_ns = 0

    def cancel(self) -> None:
        """Let it end with its next chunk."""
        self._since_ns = self._since_ns or self._clock.monotonic_ns()
        self.cancelled.set()

    def is_lost(self, now_ns: int) -> bool:
        """Tell whether it should have ended long ago."""
        return self.cancelled.is_set() and now_ns - self._since_ns > _LOST_AFTER_NS


class PythonStreamRuntime:
    """Stream runtime for ``predict_stream``, a generator or an async generator of outputs.

    ``preprocess`` gets the inputs, ``predict_stream`` what that returned, ``postprocess`` each
    thing it yields; the last of them gives a chunk's outputs. Each stream runs in a thread of its
    own, at most 16 at a time, so the code must bear being called from several threads.
    """

    def __init__(
        self, clock: Clock | None = None, give_up: Callable[[], None] = end_process
    ) -> None:
        self._code = Code()
        self._clock = clock or SystemClock()
        self._give_up = give_up
        self._signature: Signature | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._running: list[_Stream] = []
        self._lock = threading.Lock()

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Import the code and let it load."""
        self._signature = signature or declared_signature(folder)
        self._code.load(folder, options)
        problem = ""
        if not self._code.has(STREAM):
            problem = f"class Model defines no {STREAM}"
        elif self._code.has(PREDICT):
            problem = (
                f"class Model defines {PREDICT} and {STREAM}; keep one of them: callers who ask "
                "for no stream get its chunks joined"
            )
        if problem:
            self.unload()
            raise LoadFailed(problem)
        self._threads = ThreadPoolExecutor(_MAX_STREAMS, thread_name_prefix="stream")

    def signature(self) -> Signature | None:
        """Return the signature it was loaded with, or that of ``signature.json``."""
        return self._signature

    def submit(self, inputs: Batch, sink: Sink) -> Callable[[], None]:
        """Begin a stream in a thread of its own.

        Raises ``Overloaded`` when as many run as may, and ``InvalidTensor`` and its like for inputs
        that do not fit.
        """
        threads, signature = self._threads, self._signature
        if threads is None:
            raise ModelFailed("the model is not loaded")
        if signature is not None:
            check_batch(inputs, signature.inputs)
        stream = _Stream(self._clock)
        with self._lock:
            if len(self._running) >= _MAX_STREAMS:
                self._refuse()
            self._running.append(stream)
        threads.submit(self._run, inputs, sink, stream)
        return stream.cancel

    def unload(self) -> None:
        """Release the model and its modules; streams that still run end with their next chunk."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)
        code, self._code = self._code, Code()
        code.close()

    def _refuse(self) -> NoReturn:
        now_ns = self._clock.monotonic_ns()
        if all(stream.is_lost(now_ns) for stream in self._running):
            # Nobody listens to any of them, and none comes back: a thread cannot be ended.
            self._give_up()
        raise Overloaded(
            f"{len(self._running)} streams of this model are open here; try again later or add "
            "replicas",
            retry_after_s=_RETRY_AFTER_S,
        )

    def _run(self, inputs: Batch, sink: Sink, run: _Stream) -> None:
        error: SalverError | None
        try:
            error = self._answer(inputs, sink, run)
        except SalverError as failed:
            error = failed
        except BaseException as raised:  # whatever it was, the caller must be told
            error = self._code.failure(raised)
        finally:
            with self._lock:
                self._running.remove(run)
        if error is None:
            sink.finish()
        else:
            sink.fail(error)

    def _answer(self, inputs: Batch, sink: Sink, run: _Stream) -> ModelFailed | None:
        value: Any = read_only(inputs)
        if self._code.has(PREPROCESS):
            value = self._code.call(PREPROCESS, value)
        stream = self._code.call(STREAM, value)
        if isinstance(stream, Iterator):
            return self._all(stream, sink, run)
        if isinstance(stream, AsyncIterator):
            return asyncio.run(self._all_async(stream, sink, run))
        return ModelFailed(f"{STREAM} returned a {type(stream).__name__}; it must yield its chunks")

    def _all(self, stream: Iterator[Any], sink: Sink, run: _Stream) -> ModelFailed | None:
        while not run.cancelled.is_set():
            try:
                value = next(stream)
            except StopIteration:
                break
            except BaseException as error:  # code may raise anything, exits too
                return self._code.failure(error)
            if not sink.chunk(self._chunk(value)):
                break
        _closed(stream)
        return None

    async def _all_async(
        self, stream: AsyncIterator[Any], sink: Sink, run: _Stream
    ) -> ModelFailed | None:
        while not run.cancelled.is_set():
            try:
                value = await anext(stream)
            except StopAsyncIteration:
                break
            except BaseException as error:  # code may raise anything, exits too
                return self._code.failure(error)
            # Waiting for the receiver may block this thread, which has this one stream only.
            if not sink.chunk(self._chunk(value)):
                break
        return None

    def _chunk(self, value: Any) -> dict[str, AnyArray]:
        method = STREAM
        if self._code.has(POSTPROCESS):
            value, method = self._code.call(POSTPROCESS, value), POSTPROCESS
        signature = self._signature
        return checked(value, method, signature.outputs if signature is not None else ())


def _closed(stream: Iterator[Any]) -> None:
    """Let a generator that is not read to its end run its finally clauses."""
    if inspect.isgenerator(stream):
        try:
            stream.close()
        except BaseException:  # nobody is left to tell
            return
