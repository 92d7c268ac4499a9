"""Loads that ended the process: tried alone, then in a process of their own, and then given up.

Otherwise a model that dies while it loads would take its worker with it for ever, and whoever
deployed it would wait for an answer that nobody can give.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import msgspec

from salver.core.errors import LoadFailed, MemoryLimitExceeded, SalverError, message_of
from salver.core.settings import EngineSettings
from salver.engine.worker.loading import Loading
from salver.observe.logs import get_logger
from salver.wire import attempts
from salver.wire.ends import OUT_OF_MEMORY
from salver.wire.messages import Load

log = get_logger(__name__)

_MAX_ENDS = 2
_MAX_DOUBLINGS = 6
_MAX_CAUSE = 200
_KEY_BYTES = 16


class Host(Protocol):
    """What is asked of those that hold a model."""

    loading: Loading[Any]

    def begin_load(self) -> None:
        """Load in this version's thread."""
        ...


class Attempts:
    """Component that knows which loads ended earlier processes of a worker.

    A load that was going on when a process ended is a suspect: it is loaded after all others, with
    nothing beside it that may still end. If the process ends of that too, it has failed.
    ``load_again_s`` later it is tried again where no other version would suffer, longer each time;
    0 is never. Where others would, ``apart`` tells first how a process of its own ends of it, "" if
    it does not: then something else ended the processes, and it is loaded after all, once.
    ``last_end`` says how the last process ended. All methods are called on the event loop's thread.
    """

    def __init__(
        self,
        folder: Path,
        worker: str,
        last_end: str,
        settings: EngineSettings,
        apart: Callable[[Load, EngineSettings], Awaitable[str]],
    ) -> None:
        self._folder = folder
        self._worker = worker
        self._last_end = last_end
        self._settings = settings
        self._apart = apart
        self._trials: dict[str, asyncio.Task[None]] = {}
        self._one_trial = asyncio.Lock()
        self._ends: dict[str, int] = {}
        self._going_on: dict[str, asyncio.TimerHandle] = {}
        self._waiting: list[Host] = []
        self._is_noted = False

    def start(self) -> None:
        """Read what the last process left."""
        found = attempts.read(self._folder, self._worker)
        self._ends = dict(found.ends)
        for key in found.going_on:
            count = self._ends.get(key, 0)
            # Of several at a time nobody knows which it was, whatever was suspected before.
            self._ends[key] = count + 1 if len(found.going_on) == 1 else max(count, 1)
        self._is_noted = bool(self._ends)
        self._note()

    async def stop(self) -> None:
        """Forget all, since this process ends in good order; no trial goes on after it."""
        trials = list(self._trials.values())
        for trial in trials:
            trial.cancel()
        await asyncio.gather(*trials, return_exceptions=True)
        attempts.forget(self._folder, self._worker)

    def keep(self, loads: Collection[Load]) -> None:
        """Forget what is not to be loaded any more."""
        keys = {key_of(load) for load in loads}
        for key, trial in self._trials.items():
            if key not in keys:
                trial.cancel()
        if not self._ends.keys() <= keys:
            self._ends = {key: count for key, count in self._ends.items() if key in keys}
            self._note()

    def ends(self, load: Load) -> int:
        """Return how many processes ended of a load."""
        return self._ends.get(key_of(load), 0)

    def is_given_up(self, load: Load) -> bool:
        """Tell whether a load has ended as many processes as it may."""
        return self.ends(load) >= _MAX_ENDS

    def is_tried(self, load: Load) -> bool:
        """Tell whether a load goes on in a process of its own, or waits for that."""
        trial = self._trials.get(key_of(load))
        return trial is not None and not trial.cancelling()

    def give_up(self, host: Host, acquitted: Callable[[], None], *, is_alone: bool) -> None:
        """Have a version fail of what it did to earlier processes.

        It is tried again where it ``is_alone`` in its worker. Where it is not, and no more than the
        processes that make a suspect ended of it, it is tried apart before: ``acquitted`` is called
        when that ended well. Where no trial can be had, there is another one later.
        """
        load = host.loading.load
        if is_alone or self.ends(load) > _MAX_ENDS:
            self._fail(host, host.begin_load if is_alone else None)
        else:
            trial = self._try_apart(host, load, acquitted)
            self._trials[key_of(load)] = asyncio.create_task(trial)

    async def _try_apart(self, host: Host, load: Load, acquitted: Callable[[], None]) -> None:
        key, this = key_of(load), asyncio.current_task()
        again: Callable[[], None] | None = None
        try:
            async with self._one_trial:
                how = await self._apart(load, self._settings)
        except Exception as error:  # whatever it is, others are not to suffer of it
            how = f"could not be had ({message_of(error)})"[:_MAX_CAUSE]
            again = partial(self.give_up, host, acquitted, is_alone=False)
        finally:
            if self._trials.get(key) is this:
                del self._trials[key]
        if host.loading.state == "draining":
            return
        if how:
            self._fail(host, again, how)
            if again is None:
                # Whoever comes after this process needs no trial of its own.
                self._ends[key] += 1
                self._note()
        else:
            log.info("load_acquitted", variant=load.variant)
            acquitted()

    def _fail(self, host: Host, again: Callable[[], None] | None, how: str = "") -> None:
        """Have a version fail; ``again`` is called later, where that may help."""
        load, loading = host.loading.load, host.loading
        again_s = self._settings.load_again_s * 2.0 ** min(
            self.ends(load) - _MAX_ENDS, _MAX_DOUBLINGS
        )
        loading.fail(self._error(load, again_s if again is not None else 0.0, how))
        if again is not None and again_s:
            error = loading.error

            def once_more() -> None:
                if loading.state == "failed" and loading.error is error:
                    loading.retry()
                    again()

            asyncio.get_running_loop().call_later(again_s, once_more)

    def load(self, host: Host) -> None:
        """Have a version loaded; a suspect when nothing else is."""
        if self.ends(host.loading.load):
            self._waiting.append(host)
            self._next()
        else:
            host.begin_load()

    def begins(self, load: Load) -> None:
        """Note that a load begins, of which this process may end."""
        if not load.lazy:
            key, loop = key_of(load), asyncio.get_running_loop()
            self._is_over(key)
            timeout_s = self._settings.load_timeout_s
            self._going_on[key] = loop.call_later(timeout_s, self._hangs, key)
            self._note()

    def ended(self, load: Load) -> None:
        """Note that a load has come to an end, and this process has not."""
        key = key_of(load)
        was_known = self._ends.pop(key, None) is not None
        if self._is_over(key) or was_known:
            self._note()
            self._next()

    def _hangs(self, key: str) -> None:
        """Wait no more for a load that takes longer than it may, which nobody can end."""
        self._is_over(key)
        self._note()
        self._next()

    def _is_over(self, key: str) -> bool:
        timer = self._going_on.pop(key, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def _next(self) -> None:
        while self._waiting and not self._going_on:
            host = self._waiting.pop(0)
            if host.loading.state in ("loading", "evicted") and not host.loading.active:
                host.begin_load()

    def _error(self, load: Load, again_s: float, apart: str) -> SalverError:
        told = f"{self.ends(load)} processes of worker {self._worker} ended while they loaded it"
        again = f"it is tried again in {again_s:g} s" if again_s else "it is not tried again"
        if self._last_end == OUT_OF_MEMORY:
            return MemoryLimitExceeded(
                f"{load.variant}: {told}, the last one {OUT_OF_MEMORY}; {again}; give it a higher "
                "--memory-limit"
            )
        how = f" (the last one: {self._last_end})" if self._last_end else ""
        if apart:
            how += f", and one that did nothing else {apart}"
        return LoadFailed(
            f"{load.variant}: {told}{how}; {again}; see 'salver logs {self._worker}', then push a "
            "mended version, or undeploy it and deploy it again"
        )

    def _note(self) -> None:
        """Write it down; a worker that has nothing to say any more leaves no file."""
        try:
            if self._ends or self._going_on:
                found = attempts.Attempts(self._ends, tuple(self._going_on))
                attempts.write(self._folder, self._worker, found)
                self._is_noted = True
            elif self._is_noted:
                attempts.forget(self._folder, self._worker)
                self._is_noted = False
        except OSError as error:
            log.warning("load_not_noted", cause=str(error))


def key_of(load: Load) -> str:
    """Return what tells a load from others: the version, its files, and how it is run."""
    told = msgspec.msgpack.encode((load.variant, load.digest, load.execution))
    return sha256(told).hexdigest()[: 2 * _KEY_BYTES]
