"""A follower between the disk and a control that comes and goes."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from salver.core.errors import WireError
from salver.wire.connection import Connection
from salver.wire.follower import PlanFollower
from salver.wire.messages import Plan, PlanAck, PlanPush, Snapshot
from salver.wire.planfile import write_plan
from salver.wire.transport import Listener, listen
from tests.wire.links import Inbox, hello


class Follower:
    """A follower, what it applied, and the control it follows."""

    def __init__(self, home: Path, interval_s: float = 60.0) -> None:
        self.plan_path = home / "plan"
        self.address = f"unix:{home}/control"
        self.applied: list[int] = []
        self.failing = 0
        self.mute = 0
        self.snapshots = 0
        self.inbox = Inbox()
        self.follower = PlanFollower(
            self.plan_path,
            self.address,
            hello("gateway"),
            self._apply,
            self._snapshot,
            interval_s,
        )

    async def control(self) -> Listener:
        """Start a control."""
        self.inbox = Inbox()
        return await listen(self.address, hello("control"), self.inbox.accept)

    def link(self) -> Connection:
        """Return control's side of the link."""
        assert self.inbox.connection is not None
        return self.inbox.connection

    def acks(self) -> list[int]:
        """Return the acknowledged numbers."""
        return [m.number for m, _ in self.inbox.messages if isinstance(m, PlanAck)]

    def _apply(self, plan: Plan) -> None:
        if self.failing:
            self.failing -= 1
            raise RuntimeError("not now")
        self.applied.append(plan.number)

    def _snapshot(self) -> Snapshot:
        self.snapshots += 1
        if self.mute:
            self.mute -= 1
            raise WireError("too much to tell")
        return Snapshot(self.snapshots, self.follower.plan_number, 1, "ready", 0)


def test_disk_first_then_control(tmp_path: Path) -> None:
    """The plan on disk is applied at start, pushed ones after that, and acknowledged.

    An older one is not applied; the newest number is acknowledged instead.
    """

    async def run() -> None:
        case = Follower(tmp_path)
        write_plan(case.plan_path, Plan(5, 0))
        await case.follower.start()
        assert case.applied == [5]
        door = await case.control()
        await case.inbox.until_messages(1)
        for number in (6, 4, 8):
            case.link().send(PlanPush(Plan(number, 0)))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            while len(case.acks()) < 3:  # noqa: ASYNC110 - the inbox is read whole
                await asyncio.sleep(0.005)
        assert case.applied == [5, 6, 8]
        assert case.acks() == [6, 6, 8]
        await case.follower.stop()
        await door.close()

    uvloop.run(run())


def test_control_comes_back(tmp_path: Path) -> None:
    """When control dies the plan stays in force; a new control is found and reported to."""

    async def run() -> None:
        case = Follower(tmp_path)
        door = await case.control()
        await case.follower.start()
        await case.inbox.until_messages(1)
        case.link().send(PlanPush(Plan(3, 0)))
        await case.inbox.until_messages(2)
        await door.close()
        case.link().close()
        await case.inbox.until_lost()
        assert case.follower.plan_number == 3
        door = await case.control()
        await case.inbox.until_messages(1)
        (message, _), *_ = case.inbox.messages
        assert isinstance(message, Snapshot)
        assert message.plan == 3
        await case.follower.stop()
        await door.close()

    uvloop.run(run())


def test_reports_at_intervals_and_when_poked(tmp_path: Path) -> None:
    """Snapshots come by themselves, at once after a poke, and one last time at the end."""

    async def run() -> None:
        case = Follower(tmp_path, interval_s=0.02)
        door = await case.control()
        await case.follower.start()
        await case.inbox.until_messages(5)
        await case.follower.stop()
        await case.inbox.until_lost()
        numbers = [m.number for m, _ in case.inbox.messages if isinstance(m, Snapshot)]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == case.snapshots
        await door.close()
        patient = Follower(tmp_path)
        door = await patient.control()
        await patient.follower.start()
        await patient.inbox.until_messages(1)
        patient.follower.poke()
        await patient.inbox.until_messages(2)
        await patient.follower.stop()
        await door.close()

    uvloop.run(run())


def test_a_report_that_cannot_be_sent_ends_no_reports(tmp_path: Path) -> None:
    """The next ones are, it is said once, and the end is an end all the same."""

    async def run() -> None:
        case, told = Follower(tmp_path, interval_s=0.02), []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["message"]))
        door = await case.control()
        await case.follower.start()
        await case.inbox.until_messages(2)
        case.mute, before = 3, len(case.inbox.messages)
        await case.inbox.until_messages(before + 2)
        assert case.mute == 0
        assert told == ["a report could not be sent"]
        case.mute = 1000
        await case.follower.stop()
        await case.inbox.until_lost()
        await door.close()

    uvloop.run(run())


def test_a_plan_that_could_not_be_applied_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same link, after a pause; until then it is not acknowledged."""
    monkeypatch.setattr("salver.wire.follower._FIRST_AGAIN_S", 0.05)

    async def run() -> None:
        case = Follower(tmp_path)
        door = await case.control()
        await case.follower.start()
        await case.inbox.until_messages(1)
        case.failing = 2
        case.link().send(PlanPush(Plan(4, 0)))
        async with asyncio.timeout(10):
            while case.acks()[-1:] != [4]:  # noqa: ASYNC110 - the inbox is read whole
                await asyncio.sleep(0.005)
        assert (case.applied, case.acks(), case.inbox.lost) == ([4], [0, 4], [])
        await case.follower.stop()
        await door.close()

    uvloop.run(run())
