"""Models that are code and answer in chunks: ``Model.predict_stream``."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from salver.artifact.declared_signature import declared_signature
from salver.core.errors import LoadFailed, ModelFailed, Overloaded, SalverError
from salver.core.signature import Signature
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch, RuntimeOptions, Sink
from salver.runtimes.checks import check_batch
from salver.runtimes.code import Code
from salver.runtimes.code_outputs import checked
from salver.runtimes.python import POSTPROCESS, PREDICT, PREPROCESS, STREAM

_MAX_STREAMS = 16
_RETRY_AFTER_S = 1.0


class PythonStreamRuntime:
    """Stream runtime for ``predict_stream``, a generator or an async generator of outputs.

    ``preprocess`` gets the inputs, ``predict_stream`` what that returned, ``postprocess`` each
    thing it yields; the last of them gives a chunk's outputs. Each stream runs in a thread of its
    own, at most 16 at a time, so the code must bear being called from several threads.
    """

    def __init__(self) -> None:
        self._code = Code()
        self._signature: Signature | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._running = 0
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
        with self._lock:
            if self._running >= _MAX_STREAMS:
                raise Overloaded(
                    f"{self._running} streams of this model are open here; try again later or add "
                    "replicas",
                    retry_after_s=_RETRY_AFTER_S,
                )
            self._running += 1
        cancelled = threading.Event()
        threads.submit(self._run, inputs, sink, cancelled)
        return cancelled.set

    def unload(self) -> None:
        """Release the model and its modules; streams that still run end with their next chunk."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)
        code, self._code = self._code, Code()
        code.close()

    def _run(self, inputs: Batch, sink: Sink, cancelled: threading.Event) -> None:
        error: SalverError | None
        try:
            error = self._answer(inputs, sink, cancelled)
        except SalverError as failed:
            error = failed
        except BaseException as raised:  # whatever it was, the caller must be told
            error = self._code.failure(raised)
        finally:
            with self._lock:
                self._running -= 1
        if error is None:
            sink.finish()
        else:
            sink.fail(error)

    def _answer(self, inputs: Batch, sink: Sink, cancelled: threading.Event) -> ModelFailed | None:
        value: Any = inputs
        if self._code.has(PREPROCESS):
            value = self._code.call(PREPROCESS, value)
        stream = self._code.call(STREAM, value)
        if isinstance(stream, Iterator):
            return self._all(stream, sink, cancelled)
        if isinstance(stream, AsyncIterator):
            return asyncio.run(self._all_async(stream, sink, cancelled))
        return ModelFailed(f"{STREAM} returned a {type(stream).__name__}; it must yield its chunks")

    def _all(
        self, stream: Iterator[Any], sink: Sink, cancelled: threading.Event
    ) -> ModelFailed | None:
        while not cancelled.is_set():
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
        self, stream: AsyncIterator[Any], sink: Sink, cancelled: threading.Event
    ) -> ModelFailed | None:
        while not cancelled.is_set():
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
