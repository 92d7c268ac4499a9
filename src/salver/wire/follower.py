"""Keeps a process in line with the plan: from disk at start, then from control.

Control may come and go: the follower reconnects with growing pauses and the process acts on the
last plan meanwhile. What the process asks of control goes over the same link.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from salver.core.errors import WireError
from salver.core.feedback import Taken
from salver.wire.connection import Connection
from salver.wire.framing import Buffer
from salver.wire.messages import (
    Change,
    Changed,
    Fail,
    Hello,
    Message,
    Plan,
    PlanAck,
    PlanPush,
    Report,
    ReportTaken,
    Snapshot,
)
from salver.wire.planfile import read_plan
from salver.wire.questions import CHANGES, REPORTS, Questions
from salver.wire.transport import connect

_CONNECT_TIMEOUT_S = 5.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
_FIRST_AGAIN_S = 1.0
_LONGEST_AGAIN_S = 60.0


class PlanFollower:
    """Component that applies plans and reports snapshots.

    ``apply`` is called with each newer plan, ``snapshot`` whenever a report is due, ``more`` for
    what goes with it; ``linked``, which may be set before ``start``, whenever there is a link to
    control. All on the event loop's thread.
    """

    def __init__(
        self,
        plan_path: Path,
        control_address: str,
        hello: Hello,
        apply: Callable[[Plan], None],
        snapshot: Callable[[], Snapshot],
        interval_s: float,
        more: Callable[[], Sequence[Message]] = tuple,
    ) -> None:
        self.plan: Plan | None = None
        self._plan_path = plan_path
        self._control_address = control_address
        self._hello = hello
        self._apply = apply
        self._snapshot = snapshot
        self._more = more
        self._interval_s = interval_s
        self._connection: Connection | None = None
        numbers = itertools.count(1)
        self._changes = Questions[Change, Changed](CHANGES, numbers)
        self._reports = Questions[Report, ReportTaken](REPORTS, numbers)
        self._lost = asyncio.Event()
        self._poked = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self._again_s, self._tried = _FIRST_AGAIN_S, 0
        self._is_untold = False
        self.linked: Callable[[], None] = _nothing
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def plan_number(self) -> int:
        """Number of the plan in force; 0 before there is one."""
        return 0 if self.plan is None else self.plan.number

    async def start(self) -> None:
        """Apply the plan on disk, then follow control."""
        plan = read_plan(self._plan_path)
        if plan is not None:
            self._take(plan)
        self._tasks = [
            asyncio.create_task(self._stay_connected()),
            asyncio.create_task(self._report()),
        ]

    async def stop(self) -> None:
        """Send a last snapshot and close the link."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._again is not None:
            self._again.cancel()
        if self._connection is not None:
            self._try_to_tell(self._connection)
            self._connection.close()

    def poke(self) -> None:
        """Report soon instead of at the next interval."""
        self._poked.set()

    async def ask(self, change: Change, timeout_s: float) -> None:
        """Ask control for a change and wait until it is made; see ``Questions.ask``."""
        await self._changes.ask(self._connection, change, timeout_s)

    async def report(self, report: Report, timeout_s: float) -> Taken:
        """Pass a report on and return what control says came of it; see ``Questions.ask``."""
        return (await self._reports.ask(self._connection, report, timeout_s)).taken

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take a pushed plan or an answer; other messages are not for followers."""
        del payload
        if isinstance(message, PlanPush):
            if message.plan.number >= self.plan_number:
                self._try(message.plan)
            self._acknowledge()
        elif isinstance(message, Changed):
            self._changes.answered(message)
        elif isinstance(message, ReportTaken):
            self._reports.answered(message)
        elif isinstance(message, Fail):
            self._changes.answered(message)
            self._reports.answered(message)

    def on_lost(self, error: WireError | None) -> None:
        """Take note that control is gone."""
        del error
        self._connection = None
        self._changes.lost()
        self._reports.lost()
        self._lost.set()

    def _try_to_tell(self, connection: Connection) -> None:
        """Report; what cannot be told now may be at the next time, and is said once until then."""
        was_untold, self._is_untold = self._is_untold, True
        try:
            self._tell(connection)
        except Exception as fault:  # whatever it is, control must hear of this process again
            if not was_untold:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a report could not be sent", "exception": fault}
                )
        else:
            self._is_untold = False

    def _tell(self, connection: Connection) -> None:
        connection.send(self._snapshot())
        for message in self._more():
            connection.send(message)

    def _acknowledge(self) -> None:
        if self._connection is not None:
            self._connection.send(PlanAck(self.plan_number))
        self.poke()

    def _take(self, plan: Plan, *, anew: bool = False) -> None:
        if plan == self.plan and not anew:
            return
        before, self.plan = self.plan, plan
        try:
            self._apply(plan)
        except BaseException:
            self.plan = before
            raise

    def _try(self, plan: Plan) -> None:
        """Apply a plan; one that cannot be is tried again, ever more seldom, until another comes.

        The link stays: a new one would bring the same plan at once.
        """
        left, self._again = self._again, None
        if left is not None:
            left.cancel()
        if plan.number != self._tried:
            self._again_s, self._tried = _FIRST_AGAIN_S, plan.number
        try:
            # What could not be applied may be half in force, so that also the plan before is new.
            self._take(plan, anew=left is not None)
        except Exception as fault:  # whatever it is, the next try may do better
            loop = asyncio.get_running_loop()
            told = f"plan {plan.number} could not be applied"
            loop.call_exception_handler({"message": told, "exception": fault})
            self._again = loop.call_later(self._again_s, self._once_more, plan)
            self._again_s = min(self._again_s * 2, _LONGEST_AGAIN_S)
        else:
            self._tried = 0

    def _once_more(self, plan: Plan) -> None:
        self._try(plan)
        if self._again is None:
            self._acknowledge()

    async def _stay_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            self._lost.clear()
            try:
                await connect(
                    self._control_address, self._hello, self._accepted, _CONNECT_TIMEOUT_S
                )
            except WireError:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            self.poke()
            await self._lost.wait()

    def _accepted(self, connection: Connection) -> "PlanFollower":
        self._connection = connection
        self.linked()
        return self

    async def _report(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._poked.wait()
            except TimeoutError:
                pass
            self._poked.clear()
            if self._connection is not None:
                self._try_to_tell(self._connection)


def _nothing() -> None:
    """Do nothing."""
