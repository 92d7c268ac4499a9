"""Keeps the models of one worker within its memory budget: who comes in, and who leaves for it.

One model is loaded at a time, in a thread beside those that serve, so that loading takes at most
one core from them, and so that what a model took can be measured.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from salver.core.clock import Clock
from salver.core.errors import Draining, MemoryBudgetExceeded, SalverError
from salver.core.garbage import trim
from salver.core.hosting import CPU
from salver.core.settings import EngineSettings
from salver.engine.worker.budgets import Budgets, Usage
from salver.engine.worker.loading import Loading
from salver.engine.worker.residency import Verdict
from salver.observe.logs import get_logger
from salver.observe.meter import Meter
from salver.runtimes.base import BatchRuntime, provider_of
from salver.wire.messages import Load

log = get_logger(__name__)

RETRY_AFTER_S = 1.0
_POLL_S = 0.01
_FAILED_PAUSE_S = 1.0
_UNKNOWN = (
    "the driver does not tell this process what it occupies, so engine.gpu_memory_budget_bytes has "
    "no effect; share process ids with the host (docker run --pid=host)"
)
_IN_MEMORY = ("memory budget", "raise engine.memory_budget_bytes or pin fewer models")
_ON_GPU = (
    "budget of GPU memory",
    "raise engine.gpu_memory_budget_bytes, pin fewer models, or deploy it with --provider cpu",
)


class Host(Protocol):
    """What is asked of those that hold a model."""

    loading: Loading[BatchRuntime]
    last_used_ns: int
    when_out: Callable[[], None] | None

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits, runs or loads."""
        ...

    def is_wanted(self) -> bool:
        """Tell whether somebody waits; those who have left are let go of."""
        ...

    def refuse_waiting(self, error: SalverError) -> int:
        """End all that waits with an error; returns how many requests that were."""
        ...

    def give_up(self) -> BatchRuntime | None:
        """Give the loaded model away; the next request asks for it again."""
        ...


class Shelf:
    """The budgeted hosts of one worker. All methods are called on the event loop's thread.

    ``prepare`` is called in the loading thread before a version is loaded for the first time, so
    that libraries do not count as its memory.
    """

    def __init__(
        self,
        budgets: Budgets,
        settings: EngineSettings,
        clock: Clock,
        meter: Meter,
        prepare: Callable[[Load], None],
    ) -> None:
        self.budgets = budgets
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._prepare = prepare
        self._hosts: dict[str, Host] = {}
        self._wanted: dict[str, int] = {}
        self._loading: Host | None = None
        self._begun_ns = 0
        self._leaving: list[BatchRuntime] = []
        self._library_bytes = self._context_bytes = 0
        self._worn_since_ns: int | None = None
        self._polling = False
        self._loop = asyncio.get_running_loop()
        self._threads = _one_thread()

    def add(self, host: Host) -> None:
        """Host a version; one that is pinned, or that nobody has loaded yet, is loaded now."""
        load = host.loading.load
        before = self._hosts.get(load.variant)
        if before is not None:
            self.remove(before)
        self._hosts[load.variant] = host
        host.when_out = partial(self.want, host)
        host.loading.manage(partial(self._settled, host))
        self.budgets.know(load)
        if self._is_eager(host):
            self.want(host)

    def update(self, host: Host) -> None:
        """Take over whether a version is pinned; nothing to do for one that is not kept here."""
        load = host.loading.load
        if self._hosts.get(load.variant) is host:
            self.budgets.know(load)
            if self._is_eager(host):
                self.want(host)

    def remove(self, host: Host) -> None:
        """Host a version no more."""
        variant = host.loading.load.variant
        if self._hosts.get(variant) is host:
            gone = Draining(f"{variant} is being unloaded here", retry_after_s=RETRY_AFTER_S)
            host.refuse_waiting(gone)
            del self._hosts[variant]
            self._wanted.pop(variant, None)
            self.budgets.forget(variant)

    def want(self, host: Host) -> None:
        """Load a version as soon as there is room; asking again changes nothing."""
        variant = host.loading.load.variant
        if host is self._hosts.get(variant) and variant not in self._wanted:
            # Since when it lacks room: 0 while it only waits for its turn.
            self._wanted[variant] = 0
            self._serve()

    def keep_within(self) -> bool:
        """Send models away if the process has outgrown its budget; tells whether it is worn.

        To be called now and then.
        """
        now_ns, settings = self._clock.monotonic_ns(), self._settings
        if self._loading is not None:
            return self._is_worn(now_ns)
        resident = self.budgets.used()
        self._shrink()
        for host in self._hosts.values():
            if self._is_eager(host):
                self.want(host)
        memory = self.budgets.memory
        if not memory.is_bounded or memory.unexplained_bytes(resident) <= settings.worn_slack_bytes:
            self._worn_since_ns = None
        elif self._worn_since_ns is None:
            self._worn_since_ns = now_ns
        return self._is_worn(now_ns)

    def let_go(self) -> None:
        """Send away every model that may leave now."""
        self._leaving += self._evict(self.budgets.everybody(self._idle()))
        self._release_soon()

    def send_away(self, host: Host) -> bool:
        """Send one model away that nobody asks for; False for one that is not kept here."""
        variant = host.loading.load.variant
        if self._hosts.get(variant) is not host:
            return False
        if host.loading.state == "ready" and not host.loading.load.pinned:
            self._leaving += self._evict((variant,))
            self._release_soon()
        return True

    def report(self, worker: str) -> None:
        """Set the gauges of a worker's budgets."""
        memory, gpu = self.budgets.memory, self.budgets.gpu
        if memory.is_bounded:
            self._meter.set("salver_memory_budget_bytes", (worker,), memory.budget_bytes)
        self._meter.set("salver_memory_base_bytes", (worker,), memory.base_bytes)
        self._meter.set("salver_models_resident", (worker,), memory.models_in)
        if gpu.is_bounded:
            self._meter.set("salver_gpu_memory_budget_bytes", (worker,), gpu.budget_bytes)
            self._meter.set("salver_gpu_memory_base_bytes", (worker,), gpu.base_bytes)

    def close(self) -> None:
        """Load nothing more."""
        self._wanted.clear()
        self._threads.shutdown(wait=False)

    def _is_eager(self, host: Host) -> bool:
        loading = host.loading
        is_out = loading.runtime is None and loading.state in ("loading", "evicted")
        return is_out and (loading.load.pinned or not loading.proven) and not loading.active

    def _is_worn(self, now_ns: int) -> bool:
        since_ns, after_s = self._worn_since_ns, self._settings.worn_after_s
        return after_s > 0 and since_ns is not None and now_ns - since_ns > after_s * 1e9

    def _idle(self) -> dict[str, int]:
        return {
            variant: host.last_used_ns
            for variant, host in self._hosts.items()
            if host.loading.state == "ready" and host.idle
        }

    def _serve(self) -> None:
        """Begin the first load that may begin, and come back for those that wait."""
        busy = self._loading
        if busy is not None and busy.loading.active and busy.loading.state == "failed":
            # It hangs in its library, which nobody can end; the others need not wait for it.
            self._threads.shutdown(wait=False)
            self._threads = _one_thread()
            self._end_turn()
        now_ns = self._clock.monotonic_ns()
        for variant, since_ns in list(self._wanted.items()):
            host = self._hosts[variant]
            is_coming = host.loading.runtime is not None or host.loading.active
            if is_coming or not (host.is_wanted() or self._is_eager(host)):
                del self._wanted[variant]
            elif self._loading is not None:
                # While another one is read nobody knows whether there is room.
                continue
            elif self._begin(host):
                self._wanted.pop(variant, None)
            else:
                self._lacks_room(host, since_ns or now_ns, now_ns)
        if self._wanted and not self._polling:
            self._polling = True
            self._loop.call_later(_POLL_S, self._poll)

    def _end_turn(self) -> None:
        """Let the next one be loaded; nobody lacked room while this one was."""
        took_ns, self._loading = self._clock.monotonic_ns() - self._begun_ns, None
        for variant, since_ns in self._wanted.items():
            if since_ns:
                self._wanted[variant] = since_ns + took_ns

    def _lacks_room(self, host: Host, since_ns: int, now_ns: int) -> None:
        """Let a version wait for room, for as long as it may."""
        variant = host.loading.load.variant
        self._wanted[variant] = since_ns
        if now_ns - since_ns > self._settings.room_wait_s * 1e9:
            self._refuse(host, _no_room(variant))

    def _poll(self) -> None:
        self._polling = False
        self._serve()

    def _begin(self, host: Host) -> bool:
        """Load a version if there is room, or never will be; False when it has to wait."""
        variant = host.loading.load.variant
        decision = self.budgets.decide(variant, self._idle())
        if decision.verdict is Verdict.WAIT:
            return False
        if decision.verdict is Verdict.NEVER:
            self._refuse(host, self._too_large(variant))
            return True
        leaving = [*self._leaving, *self._evict(decision.victims)]
        self._leaving = []
        self._loading, self._begun_ns = host, self._clock.monotonic_ns()
        host.loading.begin(self._threads, partial(self._make_room, leaving, host.loading.load))
        return True

    def _make_room(self, leaving: list[BatchRuntime], load: Load) -> None:
        """Release what leaves and import what is needed; in the loading thread."""
        _release(leaving)
        used, gpu_used = self.budgets.used(), self.budgets.gpu_used()
        self._prepare(load)
        self._library_bytes += max(0, self.budgets.used() - used)
        self._context_bytes += max(0, self.budgets.gpu_used() - gpu_used)

    def _settled(
        self, host: Host, runtime: BatchRuntime | None, usage: Usage
    ) -> SalverError | None:
        """Take note of how a load ended; returns why a loaded version may not stay."""
        if self._loading is host:
            self._end_turn()
        budgets, variant = self.budgets, host.loading.load.variant
        budgets.memory.base_bytes += self._library_bytes
        budgets.gpu.base_bytes += self._context_bytes
        self._library_bytes = self._context_bytes = 0
        self._loop.call_soon(self._serve)
        if self._hosts.get(variant) is not host or host.loading.state == "draining":
            return None
        if runtime is None:
            self._loop.call_later(_FAILED_PAUSE_S, host.loading.rearm)
            return None
        budgets.came(variant, usage)
        is_on_gpu = provider_of(runtime) not in ("", CPU)
        if is_on_gpu and budgets.gpu.is_bounded and not budgets.gpu_used():
            log.warning("gpu_memory_unknown", variant=variant, fix=_UNKNOWN)
        host.last_used_ns = self._clock.monotonic_ns()
        if budgets.short_of(variant) is not None:
            budgets.left(variant)
            self._leaving.append(runtime)
            self._release_soon()
            self._meter.add("salver_memory_refusals_total", (variant,))
            return self._too_large(variant)
        self._shrink(variant)
        return None

    def _shrink(self, besides: str = "") -> None:
        """Send away what is over the budget."""
        self._leaving += self._evict(self.budgets.surplus(self._idle(), besides))
        self._release_soon()

    def _release_soon(self) -> None:
        leaving, self._leaving = self._leaving, []
        if leaving:
            self._threads.submit(_release, leaving)

    def _evict(self, victims: tuple[str, ...]) -> list[BatchRuntime]:
        runtimes: list[BatchRuntime] = []
        for variant in victims:
            runtime = self._hosts[variant].give_up()
            self.budgets.left(variant)
            self._meter.add("salver_model_evictions_total", (variant,))
            log.info("model_evicted", variant=variant)
            if runtime is not None:
                runtimes.append(runtime)
        return runtimes

    def _refuse(self, host: Host, error: SalverError) -> None:
        variant = host.loading.load.variant
        self._wanted.pop(variant, None)
        count = host.refuse_waiting(error)
        self._meter.add("salver_memory_refusals_total", (variant,), count)
        if not host.loading.proven:
            host.loading.fail(error)

    def _too_large(self, variant: str) -> MemoryBudgetExceeded:
        """Say which budget is too small for a version, and what helps."""
        budgets = self.budgets
        short = budgets.short_of(variant) or budgets.memory
        which, fix = _ON_GPU if short is budgets.gpu else _IN_MEMORY
        return MemoryBudgetExceeded(
            f"{variant} does not fit into the {which} of {short.budget_bytes} bytes beside what is "
            f"pinned; {fix}",
            retry_after_s=RETRY_AFTER_S,
        )


def _no_room(variant: str) -> MemoryBudgetExceeded:
    return MemoryBudgetExceeded(
        f"there is no room for {variant} while all models in memory are busy; try again later, "
        "raise the worker's budget (engine.memory_budget_bytes, engine.gpu_memory_budget_bytes), "
        "or add replicas",
        retry_after_s=RETRY_AFTER_S,
    )


def _release(runtimes: list[BatchRuntime]) -> None:
    for runtime in runtimes:
        runtime.unload()
    trim()


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="load")
