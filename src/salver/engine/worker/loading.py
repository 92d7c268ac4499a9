"""How far a version is with getting into memory."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import msgspec

from salver.core.clock import Clock
from salver.core.errors import (
    DigestMismatch,
    LoadFailed,
    SalverError,
    StorageFull,
    message_of,
)
from salver.core.garbage import trim
from salver.core.hosting import Execution
from salver.engine.worker.budgets import Usage
from salver.engine.worker.limits import explained
from salver.observe.gpu import gpu_used_bytes
from salver.observe.logs import get_logger
from salver.observe.memory import forget_peak, heap_bytes, peak_bytes, resident_bytes
from salver.observe.meter import Meter
from salver.runtimes.base import Runtime, provider_of
from salver.wire.messages import Load, VariantState

log = get_logger(__name__)

_MAX_CAUSE = 500

LoadedRuntime = TypeVar("LoadedRuntime", bound=Runtime)


class Measured(NamedTuple, Generic[LoadedRuntime]):
    """What was loaded, and what that took."""

    runtime: LoadedRuntime
    usage: Usage


class Loading(Generic[LoadedRuntime]):
    """State machine of one version: lazy, loading, ready, failed, draining.

    ``load_runtime`` verifies and loads, in a thread. ``changed`` is called at every change of
    state, ``finished`` after each attempt; both on the event loop's thread. ``refusing`` is set
    while requests are refused, whatever the state.

    A *managed* version may leave memory and come back: evicted, reloading, ready. Once it was
    ``proven`` to load these changes concern nobody outside and are not told. ``size_bytes`` is
    what the last load took, also while it is out; ``usage`` has all of it. ``wanted_ns`` is since
    when somebody waits for what is out, and ``wakes`` what that has to wait for: model, or
    process. ``expects`` is called before each load, which may keep the event loop waiting or end
    the process, and ``ended`` after it.

    ``tried`` is the execution that the last attempt ended with, ``error`` how. A loaded version
    whose execution changes is loaded once more beside itself; ``swapped`` is called with what it
    replaces and with the thread that loaded it.
    """

    def __init__(
        self,
        load: Load,
        load_runtime: Callable[[Load], LoadedRuntime],
        clock: Clock,
        meter: Meter,
        changed: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self.load = load
        self.state = "lazy" if load.lazy else "loading"
        self.error: SalverError | None = None
        self.refusing: SalverError | None = None
        self.runtime: LoadedRuntime | None = None
        self.usage = Usage(0)
        self.resident_bytes = self.size_bytes = 0
        self.active = self.renewing = False
        self.managed = self.proven = False
        self.tried: Execution | None = None
        self.provider = ""
        self.wanted_ns = 0
        self.wakes = "model"
        self.finished: Callable[[], None] = _nothing
        self.expects: Callable[[Load], None] = _unheeded
        self.ended: Callable[[Load], None] = _unheeded
        self.swapped: Callable[[LoadedRuntime | None, ThreadPoolExecutor], None] = _kept
        self._load_runtime = load_runtime
        self._clock = clock
        self._meter = meter
        self._changed = changed
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._settled: Callable[[LoadedRuntime | None, Usage], SalverError | None] = _stays

    @property
    def returns(self) -> bool:
        """Tell whether it may leave memory, since the next request brings it back."""
        return self.load.lazy or self.managed

    @property
    def is_open(self) -> bool:
        """Tell whether it is in memory and takes requests."""
        return self.state == "ready" and self.refusing is None

    @property
    def may_be_mended(self) -> bool:
        """Tell whether it failed of what is stored, and no request will have it tried again.

        That may be mended without another plan.
        """
        is_asked_for = self.proven if self.managed else self.load.lazy
        return not is_asked_for and isinstance(self.error, DigestMismatch | StorageFull)

    def report(self) -> VariantState:
        """Return what others are told of this version."""
        error = self.error
        return VariantState(
            self.load.variant,
            self.state,
            error.code if error is not None else "",
            error.message if error is not None else "",
            self.resident_bytes,
            self.size_bytes,
            self.tried,
            self.provider,
        )

    def manage(self, settled: Callable[[LoadedRuntime | None, Usage], SalverError | None]) -> None:
        """Let somebody else decide when this version is in memory.

        ``settled`` gets the outcome of each load, None for a failed one, and what it took. It may
        return an error, and has to unload the runtime then.
        """
        self.managed, self._settled = True, settled
        self.size_bytes = self.load.size_hint_bytes
        if self.size_bytes:
            self.state, self.proven = "evicted", True

    def come_and_go(self, *, proven: bool) -> None:
        """Let this version leave memory and come back, with nobody to decide about it.

        ``proven`` tells that an earlier process could load it: it is out until it is wanted.
        """
        self.managed = True
        if proven and self.state == "loading" and not self.active:
            self.state, self.proven = "evicted", True

    def stay(self) -> None:
        """Let this version leave memory no more."""
        self.managed = False

    def begin(self, threads: ThreadPoolExecutor, prepare: Callable[[], None] | None = None) -> None:
        """Load in a thread, after ``prepare`` was called there."""
        self.active = True
        if self.state != "draining":
            self.state = "reloading" if self.proven else "loading"
        self._tell()
        started_ns, load = self._clock.monotonic_ns(), self.load
        self.expects(load)
        self._timer = self._loop.call_later(self._timeout_s, self._late)
        future = threads.submit(self._measure, load, prepare or _nothing)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._loaded, done, started_ns, load)
        )

    def renew(self, threads: ThreadPoolExecutor) -> None:
        """Load once more as ``load`` says now, while what is loaded serves.

        If that fails it goes on to serve, with ``error`` set.
        """
        self.renewing = True
        started_ns, load = self._clock.monotonic_ns(), self.load
        self.expects(load)
        future = threads.submit(self._measure, load, _nothing)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(
                self._renewed, done, started_ns, load, threads
            )
        )

    def retry(self) -> None:
        """Forget a failure, since something else is to be tried."""
        self.state, self.error = "loading", None
        self._tell()

    def fail(self, error: SalverError) -> None:
        """Take note that a load that had not begun will not."""
        self.tried = self.load.execution
        self._failed(error)
        self._changed()

    def retire(self) -> None:
        """Take no new work from now on."""
        self.state = "draining"
        self._changed()

    def rearm(self) -> None:
        """After a failure: load again when the next request comes.

        A managed version that never could be loaded stays failed.
        """
        if self.managed and (not self.proven or self.state != "failed"):
            return
        self.state, self.error = "evicted" if self.managed else "lazy", None
        self._tell()

    def take_out(self) -> LoadedRuntime | None:
        """Give up the runtime; a lazy version can be loaded again."""
        runtime, self.runtime = self.runtime, None
        self.resident_bytes = 0
        if self.returns and self.state == "ready":
            self.state = "evicted" if self.managed else "lazy"
            self._tell()
        return runtime

    def _tell(self) -> None:
        if not (self.managed and self.proven):
            self._changed()

    def _measure(self, load: Load, prepare: Callable[[], None]) -> Measured[LoadedRuntime]:
        """Load and return what that took; in a thread, other loads may go on in other threads.

        What the heap gave out counts where memory that was free before hides it in the resident
        set. The files' size is the least: mapped files become resident when they are read.
        """
        prepare()
        counts_peak = forget_peak()
        # First, since its first use opens the driver's library.
        on_gpu = gpu_used_bytes()
        resident, heap = resident_bytes(), heap_bytes()
        if self.proven and not self.renewing:
            # Examples would only keep those waiting who want it back.
            load = msgspec.structs.replace(load, golden="")
        runtime = self._load_runtime(load)
        # Reading a file takes several times its size for a moment, which is not the model's.
        peak = peak_bytes() - resident if counts_peak else 0
        trim()
        least = sum([file.size_bytes for file in load.files])
        size = max(resident_bytes() - resident, heap_bytes() - heap, least)
        gpu = max(0, gpu_used_bytes() - on_gpu)
        return Measured(runtime, Usage(size, max(0, peak), gpu))

    def _loaded(self, done: "Future[Measured[LoadedRuntime]]", started_ns: int, load: Load) -> None:
        self.active = False
        self.ended(load)
        self.tried = load.execution
        if self._timer is not None:
            self._timer.cancel()
        error = self._outcome(done, started_ns)
        if error is not None:
            self.wanted_ns = 0
            self._failed(error)
        self._tell()
        self.proven = self.proven or self.runtime is not None
        if self.runtime is None:
            self._settled(None, Usage(0))
        self.finished()

    def _renewed(
        self,
        done: "Future[Measured[LoadedRuntime]]",
        started_ns: int,
        load: Load,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.renewing = False
        self.ended(load)
        self.tried = load.execution
        before, usage = self.runtime, self.usage
        if before is None or self.state == "draining":
            # Nobody needs it here any more; if somebody asks again, it is loaded anew.
            if done.exception() is None:
                threads.submit(done.result().runtime.unload)
            threads.shutdown(wait=False)
            return
        error = self._outcome(done, started_ns)
        if error is None:
            self.swapped(before, threads)
        else:
            threads.shutdown(wait=False)
            self._settled(before, usage)
            self._note(error)
        self._changed()

    def _outcome(
        self, done: "Future[Measured[LoadedRuntime]]", started_ns: int
    ) -> SalverError | None:
        """Take over what was loaded, or return why there is nothing."""
        variant = self.load.variant
        try:
            runtime, usage = done.result()
        except SalverError as error:
            return explained(error)
        except BaseException as error:  # code may ask for an exit, and libraries may panic
            told = f"{variant}: {type(error).__name__}: {message_of(error)}"
            failed = LoadFailed(told[:_MAX_CAUSE])
            failed.__cause__ = error
            return explained(failed)
        refused = self._settled(runtime, usage)
        if refused is not None:
            return refused
        seconds = (self._clock.monotonic_ns() - started_ns) / 1e9
        self.runtime, self.provider = runtime, provider_of(runtime)
        self.usage = usage
        self.resident_bytes = self.size_bytes = usage.size_bytes
        self._count_cold_start()
        self._meter.add("salver_model_loads_total", (variant,))
        self._meter.histogram("salver_model_load_seconds", (variant,)).observe(seconds)
        log.info(
            "model_loaded", variant=variant, seconds=round(seconds, 4), size_bytes=usage.size_bytes
        )
        if self.state != "draining":
            self.state, self.error = "ready", None
        return None

    def _count_cold_start(self) -> None:
        if self.wanted_ns:
            labels = (self.load.variant, self.wakes)
            waited_s = (self._clock.monotonic_ns() - self.wanted_ns) / 1e9
            self._meter.add("salver_cold_starts_total", labels)
            self._meter.histogram("salver_cold_start_seconds", labels).observe(waited_s)
        self.wanted_ns, self.wakes = 0, "model"

    def _late(self) -> None:
        # A thread cannot be ended; the version is ready after all if it comes back.
        if self.state in ("loading", "reloading"):
            self._failed(
                LoadFailed(
                    f"{self.load.variant} did not load within {self._timeout_s} s; raise "
                    "engine.load_timeout_s if it takes that long"
                )
            )
            self._changed()

    def _failed(self, error: SalverError) -> None:
        if self.state != "draining":
            self.state = "failed"
        self._note(error)

    def _note(self, error: SalverError) -> None:
        variant = self.load.variant
        self.error = error
        self._meter.add("salver_model_load_failures_total", (variant, error.code))
        log.error("model_load_failed", variant=variant, code=error.code, cause=error.message)


def _nothing() -> None:
    """Stand in until the host has said what to do."""


def _unheeded(load: Load) -> None:
    """Stand in where nobody notes what is loaded."""
    del load


def _kept(before: object, threads: ThreadPoolExecutor) -> None:
    """Do so where nothing is ever replaced."""
    del before, threads


def _stays(runtime: object, usage: Usage) -> SalverError | None:
    """Let what was loaded stay."""
    del runtime, usage
    return None
