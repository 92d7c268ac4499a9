"""What a worker does when memory gets short."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from salver.core.clock import Clock
from salver.core.errors import Overloaded, SalverError
from salver.core.garbage import give_back
from salver.core.settings import LimitSettings
from salver.engine.worker.loading import Loading
from salver.engine.worker.refusals import RETRY_AFTER_S
from salver.observe.memory import memory_share
from salver.observe.meter import Meter
from salver.observe.pressure import REFUSE, SHRINK, UNLOAD, MemoryGuard


class Host(Protocol):
    """What is asked of those that hold models."""

    loading: Loading[Any]

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits, runs or loads."""
        ...

    def unload(self) -> None:
        """Release the model; lazy hosts can load it again."""
        ...


class Scarcity:
    """Shrinks, lets go of what can be loaded again, and refuses; ``guard`` takes more actions."""

    def __init__(
        self,
        hosts: Callable[[], Iterable[Host]],
        settings: LimitSettings,
        clock: Clock,
        meter: Meter,
        identity: str,
    ) -> None:
        self._hosts = hosts
        self._refusal: SalverError | None = None
        share = memory_share(settings.worker_memory_bytes, with_group=settings.watch_group)
        self.guard = MemoryGuard(share, clock, meter, ("worker", identity))
        self.guard.on(SHRINK, "garbage", give_back)
        self.guard.on(UNLOAD, "lazy_models", self._unload)
        self.guard.on(REFUSE, "requests", self._begin_refusing, self._end_refusing)

    def refuse_if_needed(self, host: Host) -> None:
        """Have a new host refuse as the others do."""
        host.loading.refusing = self._refusal

    def _unload(self) -> None:
        for host in self._hosts():
            if host.loading.load.lazy and host.loading.state == "ready" and host.idle:
                host.unload()

    def _begin_refusing(self) -> None:
        self._refusal = Overloaded(
            "the worker's memory is used up; try again later, raise limits.worker_memory_bytes, "
            "or host fewer models",
            retry_after_s=RETRY_AFTER_S,
        )
        self._tell()

    def _end_refusing(self) -> None:
        self._refusal = None
        self._tell()

    def _tell(self) -> None:
        for host in self._hosts():
            self.refuse_if_needed(host)
