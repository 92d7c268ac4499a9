"""Where the batches of one version run: as many at a time as it has instances."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from salver.engine.ledger import SLOTS
from salver.engine.worker.crew import Crew, Member
from salver.engine.worker.watchdog import Watchdog
from salver.runtimes.base import BatchRuntime


class Seat:
    """One instance, the thread it runs in, and who watches it (None for what is no code).

    ``slot`` is the place of its running batch in ledgers.
    """

    __slots__ = ("runtime", "slot", "threads", "watchdog")

    def __init__(self, member: Member, watchdog: Watchdog | None) -> None:
        self.runtime, self.threads = member
        self.watchdog = watchdog
        self.slot = SLOTS


class Seats:
    """The instances of what is loaded, and which of them are free.

    A running batch holds a ledger slot of its own, also after its instance was replaced: a slot
    holds the newest note only. With ``alone`` one instance is used, whatever is loaded.
    """

    def __init__(
        self, slots: tuple[int, ...], watch: Callable[[], Watchdog | None], *, alone: bool
    ) -> None:
        self.slots = slots
        self.running = 0
        self._unused = [*slots]
        self._watch = watch
        self._alone = alone
        self._seats: tuple[Seat, ...] = ()
        self._free: list[Seat] = []

    @property
    def is_full(self) -> bool:
        """Tell whether every instance runs a batch; False where nothing is loaded."""
        return not self._free and bool(self._seats)

    @property
    def are_many(self) -> bool:
        """Tell whether there are several instances."""
        return len(self._seats) > 1

    def add_slots(self, slots: tuple[int, ...]) -> None:
        """Have more room in ledgers."""
        self.slots += slots
        self._unused += slots

    def fill(self, runtime: BatchRuntime | None, threads: ThreadPoolExecutor) -> None:
        """Run what follows in these instances; one that is no ``Crew`` runs in ``threads``."""
        members: tuple[Member, ...] = ()
        if isinstance(runtime, Crew):
            members = runtime.members
        elif runtime is not None:
            members = (Member(runtime, threads),)
        if self._alone:
            members = members[:1]
        self._seats = tuple([Seat(member, self._watch()) for member in members])
        self._free = [*reversed(self._seats)]

    def next(self) -> Seat:
        """Return the seat of the next batch, which must not be full; it is not taken yet."""
        seat = self._free[-1]
        # Without a slot of its own a batch is announced by a message.
        seat.slot = self._unused[-1] if self._unused else SLOTS
        return seat

    def take(self) -> None:
        """Run a batch in the seat that ``next`` gave from now on."""
        self._free.pop()
        if self._unused:
            self._unused.pop()
        self.running += 1

    def leave(self, seat: Seat) -> None:
        """The batch is done."""
        self.running -= 1
        if seat.slot < SLOTS:
            self._unused.append(seat.slot)
        if seat in self._seats:
            self._free.append(seat)
