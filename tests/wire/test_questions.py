"""Changes that a gateway asks control for: each gets one end, whatever becomes of control."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from salver.core.errors import (
    AliasNotFound,
    ControlUnavailable,
    DeadlineExceeded,
    Overloaded,
    UnsupportedOperation,
)
from salver.wire.messages import FIRST_CHANGE_VERSION, Change, Changed, Fail
from salver.wire.questions import MAX_OPEN
from salver.wire.transport import listen
from tests.wire.links import Inbox, hello
from tests.wire.test_follower import Follower

LOAD = Change(0, "load", "churn", "alice", "default", "r-1", 5_000_000)
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
