"""How far a version is with getting into memory."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from salver.core.clock import Clock
from salver.core.errors import LoadFailed, SalverError
from salver.observe.logs import get_logger
from salver.observe.memory import resident_bytes
from salver.observe.meter import Meter
from salver.runtimes.base import Runtime
from salver.wire.messages import Load

log = get_logger(__name__)

_MAX_CAUSE = 500

LoadedRuntime = TypeVar("LoadedRuntime", bound=Runtime)


class Loading(Generic[LoadedRuntime]):
    """State machine of one version: lazy, loading, ready, failed, draining.

    ``load_runtime`` verifies and loads, in a thread. ``changed`` is called at every change of
    state, ``finished`` after each attempt; both on the event loop's thread. ``refusing`` is set
    while requests are refused, whatever the state.
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
        self.resident_bytes = 0
        self.active = False
        self.finished: Callable[[], None] = _nothing
        self._load_runtime = load_runtime
        self._clock = clock
        self._meter = meter
        self._changed = changed
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, threads: ThreadPoolExecutor) -> None:
        """Load in a thread."""
        self.active = True
        if self.state != "draining":
            self.state = "loading"
        self._changed()
        self._timer = self._loop.call_later(self._timeout_s, self._late)
        started_ns, before = self._clock.monotonic_ns(), resident_bytes()
        future = threads.submit(self._load_runtime, self.load)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._loaded, done, started_ns, before)
        )

    def retire(self) -> None:
        """Take no new work from now on."""
        self.state = "draining"
        self._changed()

    def rearm(self) -> None:
        """After a failure: load again when the next request comes."""
        self.state, self.error = "lazy", None
        self._changed()

    def take_out(self) -> LoadedRuntime | None:
        """Give up the runtime; a lazy version can be loaded again."""
        runtime, self.runtime = self.runtime, None
        self.resident_bytes = 0
        if self.load.lazy and self.state == "ready":
            self.state = "lazy"
            self._changed()
        return runtime

    def _loaded(self, done: "Future[LoadedRuntime]", started_ns: int, before: int) -> None:
        self.active = False
        if self._timer is not None:
            self._timer.cancel()
        variant = self.load.variant
        try:
            self.runtime = done.result()
        except SalverError as error:
            self._failed(error)
        except Exception as error:  # whatever a library raises on a damaged file
            self._failed(LoadFailed(f"{variant}: {type(error).__name__}: {error}"[:_MAX_CAUSE]))
        else:
            seconds = (self._clock.monotonic_ns() - started_ns) / 1e9
            self.resident_bytes = max(0, resident_bytes() - before)
            self._meter.add("salver_model_loads_total", (variant,))
            self._meter.histogram("salver_model_load_seconds", (variant,)).observe(seconds)
            log.info("model_loaded", variant=variant, seconds=round(seconds, 4))
            if self.state != "draining":
                self.state, self.error = "ready", None
        self._changed()
        self.finished()

    def _late(self) -> None:
        # A thread cannot be ended; the version is ready after all if it comes back.
        if self.state == "loading":
            self._failed(
                LoadFailed(
                    f"{self.load.variant} did not load within {self._timeout_s} s; raise "
                    "engine.load_timeout_s if it takes that long"
                )
            )
            self._changed()

    def _failed(self, error: SalverError) -> None:
        variant = self.load.variant
        self.error = error
        if self.state != "draining":
            self.state = "failed"
        self._meter.add("salver_model_load_failures_total", (variant, error.code))
        log.error("model_load_failed", variant=variant, code=error.code, cause=error.message)


def _nothing() -> None:
    """Stand in until the host has said what to do."""
