"""Steps before a model, taken while requests wait, so that batches are put together by length."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from salver.core.tensor import Tensor
from salver.engine.worker.batch import assemble
from salver.engine.worker.form import ALONE, Form, form_of
from salver.engine.worker.job import Job
from salver.runtimes.stepped import Rest
from salver.wire.messages import TensorHeader

_GROUP = 32
_MAX_ROWS = 64
_MAX_BYTES = 64 * 1024


class _Made(NamedTuple):
    """What the steps made of a request."""

    form: Form
    payload: bytes


class Readier:
    """Takes the steps before a model for requests of one version, in a thread of its own.

    ``announce`` lets callers' gateways know of requests before their steps begin, since they may
    be the process's last, and returns those that nobody could be told of. ``done`` gets jobs back,
    each once and in their order, those with ``ready`` set as what the steps made of them. What
    would take long by itself, or fails, is given back as it came: it fails where it runs. All
    methods are called on the event loop's thread.
    """

    def __init__(
        self, announce: Callable[[list[Job]], list[Job]], done: Callable[[list[Job]], None]
    ) -> None:
        self.rest: Rest | None = None
        self.requests = 0
        self.busy: list[Job] = []
        self._announce = announce
        self._done = done
        self._waiting: deque[Job] = deque()
        self._loop = asyncio.get_running_loop()
        self._threads: ThreadPoolExecutor | None = None

    def apply(self, rest: Rest | None) -> None:
        """Take the steps of this runtime from now on; None takes none."""
        self.rest = rest

    def takes(self, job: Job) -> bool:
        """Tell whether a job is one to give to ``add``."""
        return (
            self.rest is not None
            and job.key is not ALONE
            and job.count == 1
            and job.rows <= _MAX_ROWS
            and len(job.payload) <= _MAX_BYTES
        )

    def add(self, job: Job) -> None:
        """Take the steps for a job as soon as those before it have been."""
        self._waiting.append(job)
        self.requests += job.count
        if not self.busy:
            # What else comes in this turn of the loop goes with it.
            self._loop.call_soon(self._begin)

    def close(self) -> None:
        """End the thread; jobs that are with it are not given back."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    def _begin(self) -> None:
        if self.busy or not self._waiting:
            return
        waiting = self._waiting
        group = [waiting.popleft() for _ in range(min(_GROUP, len(waiting)))]
        rest = self.rest
        self.busy = group
        untold = group if rest is None else self._announce(group)
        told = [job for job in group if job not in untold] if untold else group
        if rest is None or not told:
            self._finish(group)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="steps")
        future = self._threads.submit(_prepared, rest, told)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._came, group, told, done)
        )

    def _came(self, group: list[Job], told: list[Job], done: "Future[list[_Made | None]]") -> None:
        for job, made in zip(told, done.result(), strict=True):
            if made is not None:
                job.form, job.payload = made
                job.key, job.ready = made.form.key, True
        self._finish(group)

    def _finish(self, group: list[Job]) -> None:
        self.busy = []
        self.requests -= sum([job.count for job in group])
        self._done(group)
        self._begin()


def _prepared(rest: Rest, jobs: list[Job]) -> list[_Made | None]:
    return [_made(rest, job) for job in jobs]


def _made(rest: Rest, job: Job) -> _Made | None:
    """Return what the steps make of a request; None where they fail."""
    if job.cancelled:
        return None
    try:
        tensors = [
            Tensor.from_array(name, array) for name, array in rest.prepare(assemble([job])).items()
        ]
    except Exception:  # a step may raise anything, and does so again where it is told
        return None
    headers = tuple([TensorHeader(t.name, t.datatype, t.shape, t.size_bytes) for t in tensors])
    form = form_of(headers, job.form.outputs)
    return _Made(form, b"".join([tensor.buffer for tensor in tensors]))
