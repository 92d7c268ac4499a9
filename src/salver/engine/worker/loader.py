"""Turns a Load into a runtime that holds the model: verify, copy, load."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from salver.core.clock import SystemClock
from salver.core.errors import LoadFailed, SalverError
from salver.core.garbage import settle
from salver.core.hosting import CPU
from salver.core.settings import EngineSettings
from salver.core.steps import unstepped
from salver.engine.materialize import materialize
from salver.engine.trial import TrialRequest, try_load
from salver.engine.worker.crew import Crew
from salver.engine.worker.warmup import keep_cold, warm_up
from salver.runtimes.base import BatchRuntime, RuntimeOptions, StreamRuntime
from salver.runtimes.stepped import SteppedRuntime, SteppedStreamRuntime
from salver.runtimes.table import create_batch, create_stream, prepare_batch, prepare_gpu
from salver.wire.copies import Copies
from salver.wire.messages import Load

LOCAL_SOURCE = "local"
_TRIAL = "trial"
_COPY_LOCKS = 64


class Loader:
    """Loads versions for one worker; called in threads, one version at a time per host."""

    def __init__(
        self,
        blobs: Path,
        copies: Copies,
        options: RuntimeOptions,
        create_batch: Callable[[str], BatchRuntime],
        create_stream: Callable[[str], StreamRuntime],
        *,
        row_by_row: bool = False,
        warm_up: Callable[[BatchRuntime, Load, Path], None] = keep_cold,
    ) -> None:
        self._blobs = blobs
        self._copies = copies
        self._granted = options
        self._create_batch = create_batch
        self._create_stream = create_stream
        self._row_by_row = row_by_row
        self._warm_up = warm_up
        self._prepared: set[str] = set()
        self._prepared_gpus: set[str] = set()
        self._copying = [threading.Lock() for _ in range(_COPY_LOCKS)]

    def prepare(self, load: Load) -> None:
        """Import what a batch runtime needs, so that it does not count as a model's memory.

        Raises ``UnsupportedFormat``. What was imported is left out of later garbage collections:
        each release of a model makes one, which stops all threads.
        """
        if load.runtime not in self._prepared:
            prepare_batch(load.runtime)
            self._prepared.add(load.runtime)
            settle()
        name = unstepped(load.runtime)
        if load.execution.provider != CPU and name not in self._prepared_gpus:
            prepare_gpu(name)
            self._prepared_gpus.add(name)

    def batch(self, load: Load) -> BatchRuntime:
        """Return a loaded batch runtime whose examples have run.

        Raises ``LoadFailed``, ``DigestMismatch`` or ``GoldenMismatch``.
        """
        count = load.execution.instances
        runtime = self._batch(load) if count == 1 else Crew(partial(self._batch, load), count)
        runtime.load(self._fetch(load), load.signature, self._options(load))
        try:
            self._warm_up(runtime, load, self._blobs)
        except SalverError:
            runtime.unload()
            raise
        return runtime

    def stream(self, load: Load) -> StreamRuntime:
        """Return a loaded stream runtime; raises ``LoadFailed`` or ``DigestMismatch``."""
        runtime = self._create_stream(_runtime_name(load))
        if load.steps is not None:
            runtime = SteppedStreamRuntime(runtime, load.steps)
        runtime.load(self._fetch(load), load.signature, self._options(load))
        return runtime

    async def apart(self, load: Load, settings: EngineSettings) -> str:
        """Return how a process of its own ended of loading a version, "" if it did not.

        One at a time, on the event loop's thread; see ``try_load``. Its copies are among this
        process's own, so that they are gone with those if this one is killed meanwhile.
        """
        await asyncio.to_thread(self._copies.claim)
        folder = self._copies.folder / _TRIAL
        return await try_load(TrialRequest(load, str(self._blobs), str(folder), settings))

    def clear(self) -> None:
        """Remove what earlier processes of this worker left behind."""
        self._copies.clear()

    def close(self) -> None:
        """Remove what was copied for this process."""
        self._copies.release()

    def folder(self, load: Load) -> Path:
        """Return the private folder of a version; its name comes from digests only."""
        name = sha256(f"{load.variant}\0{load.digest}".encode()).hexdigest()[:32]
        return self._copies.folder / name

    def _batch(self, load: Load) -> BatchRuntime:
        """Return an empty runtime with the steps of a version."""
        runtime = self._create_batch(_runtime_name(load))
        if load.steps is None:
            return runtime
        return SteppedRuntime(runtime, load.steps, row_by_row=self._row_by_row)

    def _fetch(self, load: Load) -> Path:
        if load.source != LOCAL_SOURCE:
            raise LoadFailed(
                f"blob source {load.source!r} is not configured here; known: {LOCAL_SOURCE}"
            )
        folder = self.folder(load)
        runs_code = load.trust_code or load.trust_pickle
        self._copies.claim()
        # What was undeployed may still be copied when the same is deployed again, and a copy that
        # fails takes its folder away, which must not be another's.
        with self._copying[int(folder.name, 16) % _COPY_LOCKS]:
            materialize(load.files, self._blobs, folder, runs_code=runs_code)
        return folder

    def _options(self, load: Load) -> RuntimeOptions:
        execution = load.execution
        return self._granted._replace(
            threads=execution.threads or self._granted.threads,
            trust_pickle=load.trust_pickle,
            trust_code=load.trust_code,
            provider=execution.provider,
        )


def loader_of(blobs: Path, copies: Copies, settings: EngineSettings) -> Loader:
    """Return a loader of all runtimes, as the settings want models to be run."""
    return Loader(
        blobs,
        copies,
        RuntimeOptions(settings.threads, step_bytes=settings.step_bytes),
        create_batch,
        create_stream,
        row_by_row=settings.steps == "rows",
        warm_up=warm_up(settings, SystemClock()),
    )


def _runtime_name(load: Load) -> str:
    """Return the runtime's own name; one whose steps were lost on the way is left unknown."""
    return load.runtime if load.steps is None else unstepped(load.runtime)
