"""Changes that a gateway asks control for: each gets one end, whatever becomes of control."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import uvloop

from salver.core.errors import (
    AliasNotFound,
    ControlUnavailable,
    DeadlineExceeded,
    Overloaded,
    UnsupportedOperation,
)
from salver.core.feedback import Problem, Reported, Taken
from salver.wire.messages import (
    FIRST_CHANGE_VERSION,
    FIRST_REPORT_VERSION,
    Change,
    Changed,
    Fail,
    Report,
    ReportTaken,
)
from salver.wire.questions import MAX_OPEN, MAX_OPEN_REPORTS
from salver.wire.transport import listen
from tests.wire.links import Inbox, hello
from tests.wire.test_follower import Follower

LOAD = Change(0, "load", "churn", "alice", "default", "r-1", 5_000_000)
REPORT = Report(0, "churn", "alice", "default", "r-1", (Reported("id", 1.0, "paid"),))
PATIENT_S = 30.0


@asynccontextmanager
async def connected(
    home: Path, version: int = FIRST_CHANGE_VERSION
) -> AsyncIterator[tuple[Follower, Inbox]]:
    """Give a follower that has said its first word to a control of a version."""
    case = Follower(home)
    case.inbox = Inbox()
    door = await listen(case.address, hello("control", version=version), case.inbox.accept)
    await case.follower.start()
    await case.inbox.until_messages(1)
    try:
        yield case, case.inbox
    finally:
        await case.follower.stop()
        await door.close()


def told(inbox: Inbox) -> list[Report]:
    """Return the reports that control was sent."""
    return [message for message, _ in inbox.messages if isinstance(message, Report)]


async def until_told(inbox: Inbox, count: int) -> list[Report]:
    """Wait until control was sent so many."""
    async with asyncio.timeout(10):
        while len(told(inbox)) < count:
            inbox.news.clear()
            await inbox.news.wait()
    return told(inbox)


def asked(inbox: Inbox) -> list[Change]:
    """Return the changes that control was asked for."""
    return [message for message, _ in inbox.messages if isinstance(message, Change)]


async def until_asked(inbox: Inbox, count: int) -> list[Change]:
    """Wait until control was asked for so many."""
    async with asyncio.timeout(10):
        while len(asked(inbox)) < count:
            inbox.news.clear()
            await inbox.news.wait()
    return asked(inbox)


def test_each_question_gets_its_own_answer(tmp_path: Path) -> None:
    """Answers in any order reach who asked: done, or the error with its code and pause."""

    async def run() -> None:
        async with connected(tmp_path) as (case, inbox):
            ask = case.follower.ask
            first = asyncio.create_task(ask(LOAD, PATIENT_S))
            second = asyncio.create_task(ask(LOAD, PATIENT_S))
            one, two = await until_asked(inbox, 2)
            assert (one.endpoint, one.principal, one.remaining_us) == ("churn", "alice", 5_000_000)
            assert one.id != two.id
            case.link().send(Fail(two.id, "alias_not_found", "no alias", 3.0))
            with pytest.raises(AliasNotFound, match="no alias") as caught:
                await second
            assert caught.value.retry_after_s == 3.0
            assert not first.done()
            case.link().send(Changed(one.id))
            await first

    uvloop.run(run())


def test_without_control_there_is_an_answer_at_once(tmp_path: Path) -> None:
    """Nobody waits for a control that is away; the error says when to try again."""

    async def run() -> None:
        case = Follower(tmp_path)
        await case.follower.start()
        with pytest.raises(ControlUnavailable) as caught:
            await case.follower.ask(LOAD, PATIENT_S)
        assert caught.value.retry_after_s
        await case.follower.stop()

    uvloop.run(run())


def test_control_goes_while_somebody_waits(tmp_path: Path) -> None:
    """A link that breaks ends every open question; the next control is asked anew."""

    async def run() -> None:
        async with connected(tmp_path) as (case, inbox):
            waiting = [asyncio.create_task(case.follower.ask(LOAD, PATIENT_S)) for _ in range(2)]
            await until_asked(inbox, 2)
            seen, link = len(inbox.messages), case.link()
            inbox.connection = None
            link.close()
            for task in waiting:
                with pytest.raises(ControlUnavailable, match="may have been made") as caught:
                    await task
                assert caught.value.retry_after_s
            await inbox.until_messages(seen + 1)
            again = asyncio.create_task(case.follower.ask(LOAD, PATIENT_S))
            *_, change = await until_asked(inbox, 3)
            case.link().send(Changed(change.id))
            await again

    uvloop.run(run())


def test_a_control_before_such_questions_is_not_asked(tmp_path: Path) -> None:
    """An older control would cut the link at a message that it does not know."""

    async def run() -> None:
        async with connected(tmp_path, FIRST_CHANGE_VERSION - 1) as (case, inbox):
            with pytest.raises(UnsupportedOperation, match="older"):
                await case.follower.ask(LOAD, PATIENT_S)
            assert not asked(inbox)

    uvloop.run(run())


def test_no_more_than_a_few_are_open(tmp_path: Path) -> None:
    """One more than the limit is refused without control; an answer makes room."""

    async def run() -> None:
        async with connected(tmp_path) as (case, inbox):
            ask = case.follower.ask
            waiting = [asyncio.create_task(ask(LOAD, PATIENT_S)) for _ in range(MAX_OPEN)]
            changes = await until_asked(inbox, MAX_OPEN)
            with pytest.raises(Overloaded) as caught:
                await ask(LOAD, PATIENT_S)
            assert caught.value.retry_after_s
            assert len(asked(inbox)) == MAX_OPEN
            case.link().send(Changed(changes[0].id))
            await waiting[0]
            waiting.append(asyncio.create_task(ask(LOAD, PATIENT_S)))
            for change in (await until_asked(inbox, MAX_OPEN + 1))[1:]:
                case.link().send(Changed(change.id))
            await asyncio.gather(*waiting)

    uvloop.run(run())


def test_a_silent_control_is_not_waited_for_longer(tmp_path: Path) -> None:
    """Time ends a question and frees its place; an answer that comes later disturbs nobody."""

    async def run() -> None:
        async with connected(tmp_path) as (case, inbox):
            for _ in range(MAX_OPEN + 1):
                with pytest.raises(DeadlineExceeded):
                    await case.follower.ask(LOAD, 0.01)
            late, *_ = await until_asked(inbox, MAX_OPEN + 1)
            case.link().send(Changed(late.id))
            case.link().send(Changed(10_000))
            after = asyncio.create_task(case.follower.ask(LOAD, PATIENT_S))
            *_, change = await until_asked(inbox, MAX_OPEN + 2)
            assert not after.done()
            case.link().send(Changed(change.id))
            await after

    uvloop.run(run())


def test_reports_and_changes_do_not_take_each_others_answers(tmp_path: Path) -> None:
    """No two questions on a link have one id, so a failure ends the one that it names."""

    async def run() -> None:
        async with connected(tmp_path, FIRST_REPORT_VERSION) as (case, inbox):
            report = asyncio.create_task(case.follower.report(REPORT, PATIENT_S))
            change = asyncio.create_task(case.follower.ask(LOAD, PATIENT_S))
            (sent,), (asks,) = await until_told(inbox, 1), await until_asked(inbox, 1)
            assert sent.id != asks.id
            assert sent.reports == REPORT.reports
            case.link().send(Fail(asks.id, "alias_not_found", "no alias"))
            with pytest.raises(AliasNotFound):
                await change
            assert not report.done()
            taken = Taken(0, 1, (Problem(1, "feedback_expired", "too old"),))
            case.link().send(ReportTaken(sent.id, taken))
            assert await report == taken

    uvloop.run(run())


def test_reports_do_not_go_to_a_control_before_them(tmp_path: Path) -> None:
    """One that knows changes only is asked for those and sent no reports."""

    async def run() -> None:
        async with connected(tmp_path, FIRST_REPORT_VERSION - 1) as (case, inbox):
            with pytest.raises(UnsupportedOperation, match="older"):
                await case.follower.report(REPORT, PATIENT_S)
            change = asyncio.create_task(case.follower.ask(LOAD, PATIENT_S))
            (asks,) = await until_asked(inbox, 1)
            case.link().send(Changed(asks.id))
            await change
            assert not told(inbox)

    uvloop.run(run())


def test_a_control_that_goes_has_taken_nothing_for_sure(tmp_path: Path) -> None:
    """Who waits is told to send the reports again, and so is who comes while it is away."""

    async def run() -> None:
        async with connected(tmp_path, FIRST_REPORT_VERSION) as (case, inbox):
            waiting = asyncio.create_task(case.follower.report(REPORT, PATIENT_S))
            await until_told(inbox, 1)
            seen, link = len(inbox.messages), case.link()
            inbox.connection = None
            link.close()
            with pytest.raises(ControlUnavailable, match="each counts once") as caught:
                await waiting
            assert caught.value.retry_after_s
            await inbox.until_messages(seen + 1)
            again = asyncio.create_task(case.follower.report(REPORT, PATIENT_S))
            *_, report = await until_told(inbox, 2)
            case.link().send(ReportTaken(report.id, Taken(0, 1, ())))
            assert await again == Taken(0, 1, ())
        away = Follower(tmp_path)
        await away.follower.start()
        with pytest.raises(ControlUnavailable, match="no report can be kept") as caught:
            await away.follower.report(REPORT, PATIENT_S)
        assert caught.value.retry_after_s
        await away.follower.stop()

    uvloop.run(run())


def test_nothing_piles_up_before_a_control_that_reads_nothing(tmp_path: Path) -> None:
    """Once it has kept silent and its socket is full, reports are refused and not sent."""
    lines = tuple(Reported(f"{number:0200d}", 1.0) for number in range(1000))
    large = Report(0, "churn", "alice", "default", "r-1", lines)

    async def run() -> None:
        async with connected(tmp_path, FIRST_REPORT_VERSION) as (case, inbox):
            transport = cast("asyncio.ReadTransport", case.link()._transport)
            transport.pause_reading()
            endings: list[type[Exception]] = []
            for _ in range(20):
                with pytest.raises((DeadlineExceeded, ControlUnavailable)) as caught:
                    await case.follower.report(large, 0.01)
                endings.append(caught.type)
            transport.resume_reading()
            sent = endings.count(DeadlineExceeded)
            assert 1 <= sent < 10
            assert endings == [DeadlineExceeded] * sent + [ControlUnavailable] * (20 - sent)
            for report in await until_told(inbox, sent):
                case.link().send(ReportTaken(report.id, Taken(1000, 0, ())))
            again = asyncio.create_task(case.follower.report(large, PATIENT_S))
            *_, report = await until_told(inbox, sent + 1)
            case.link().send(ReportTaken(report.id, Taken(0, 1000, ())))
            assert await again == Taken(0, 1000, ())

    uvloop.run(run())


def test_no_more_than_some_reports_are_open(tmp_path: Path) -> None:
    """Reports have places of their own: they leave those of changes free."""

    async def run() -> None:
        async with connected(tmp_path, FIRST_REPORT_VERSION) as (case, inbox):
            tell = case.follower.report
            open_ones = [
                asyncio.create_task(tell(REPORT, PATIENT_S)) for _ in range(MAX_OPEN_REPORTS)
            ]
            await until_told(inbox, MAX_OPEN_REPORTS)
            with pytest.raises(Overloaded):
                await tell(REPORT, PATIENT_S)
            change = asyncio.create_task(case.follower.ask(LOAD, PATIENT_S))
            (asks,) = await until_asked(inbox, 1)
            case.link().send(Changed(asks.id))
            await change
            for report in told(inbox):
                case.link().send(ReportTaken(report.id, Taken(1, 0, ())))
            assert await asyncio.gather(*open_ones) == [Taken(1, 0, ())] * MAX_OPEN_REPORTS

    uvloop.run(run())
