"""Reports that gateways pass on: kept before they are answered, bounded, and in turns."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop

from salver.control.reports import MAX_WAITING, Reporter
from salver.core.errors import InvalidRequest
from salver.core.feedback import MAX_RELAYED, Reported, Taken
from salver.registry.feedback import Outcome
from salver.wire.connection import Connection
from salver.wire.messages import Fail, Report, ReportTaken
from tests.control.test_feedback import World
from tests.wire.links import Inbox, pair


class Desk:
    """A reporter on a store with endpoint ``e``, and a link to it from a gateway."""

    def __init__(self, world: World, link: Connection, gateway: Inbox) -> None:
        self.world = world
        self.link = link
        self.gateway = gateway
        self.reporter = Reporter(world.feedback, is_on=True)

    def send(self, number: int, *reports: Reported) -> Report:
        """Report as a gateway does."""
        report = Report(number, "e", "alice", "default", "r-1", reports)
        self.reporter(self.link, report)
        return report

    async def answers(self, count: int) -> list[ReportTaken | Fail]:
        """Return the answers, of which there are so many."""
        await self.gateway.until_messages(count)
        found = [message for message, _ in self.gateway.messages]
        assert len(found) == count
        return [message for message in found if isinstance(message, ReportTaken | Fail)]

    def count(self) -> int:
        """Return how many reports are stored."""
        return sum(self.world.store.count("e").values())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give an empty store."""
    world = World(tmp_path)
    yield world
    world.thread.stop()
    world.database.close()


@asynccontextmanager
async def desk(world: World, folder: Path) -> AsyncIterator[Desk]:
    """Give a reporter and its link."""
    async with pair(f"unix:{folder}/link") as (there, here, _):
        made = Desk(world, await there.until_accepted(), here)
        yield made
        await made.reporter.stop()


def test_what_is_answered_is_stored(world: World, tmp_path: Path) -> None:
    """New ones, known ones and bad ones are told apart as over the control API."""

    async def run() -> None:
        async with desk(world, tmp_path) as made:
            one, two = Reported(world.sealed(), 1.0), Reported(world.sealed(), 0.0)
            made.send(7, one, Reported("nonsense", 1.0))
            (first,) = await made.answers(1)
            assert made.count() == 1
            assert isinstance(first, ReportTaken)
            assert (first.id, first.taken.taken) == (7, 1)
            assert [(p.number, p.code) for p in first.taken.problems] == [(2, "request_not_found")]
            made.send(8, one, two)
            assert (await made.answers(2))[1] == ReportTaken(8, Taken(1, 1, ()))
            made.send(9, msgspec.structs.replace(two, value=1.0))
            third = (await made.answers(3))[2]
            assert isinstance(third, ReportTaken)
            assert [p.code for p in third.taken.problems] == ["feedback_differs"]
            assert made.count() == 2

    uvloop.run(run())


def test_what_control_checks_itself(world: World, tmp_path: Path) -> None:
    """A gateway that was taken over reaches no other tenant, no bad name, and no more than usual.

    Where reports are switched off, it reaches nothing.
    """
    good = Report(1, "e", "alice", "default", "r-1", (Reported(world.sealed(), 1.0),))
    change = msgspec.structs.replace
    cases = [
        (change(good, endpoint="none"), "endpoint_not_found"),
        (change(good, tenant="others"), "endpoint_not_found"),
        (change(good, endpoint="../e"), "invalid_name"),
        (change(good, reports=good.reports * (MAX_RELAYED + 1)), "invalid_request"),
    ]

    async def run() -> None:
        async with desk(world, tmp_path) as made:
            for number, (report, code) in enumerate(cases, 1):
                made.reporter(made.link, report)
                answer = (await made.answers(number))[-1]
                assert isinstance(answer, Fail)
                assert (answer.id, answer.code) == (1, code)
            Reporter(world.feedback, is_on=False)(made.link, good)
            answer = (await made.answers(len(cases) + 1))[-1]
            assert isinstance(answer, Fail)
            assert answer.code == "unsupported_operation"
            assert made.count() == 0

    uvloop.run(run())


def test_no_more_than_some_wait(world: World, tmp_path: Path) -> None:
    """Those over the limit are refused with a pause; the others are answered in their order."""
    go = threading.Event()

    async def run() -> None:
        async with desk(world, tmp_path) as made:
            blocked = asyncio.ensure_future(world.thread(go.wait))
            made.send(0, Reported(world.sealed(), 1.0))
            await asyncio.sleep(0)
            for number in range(1, MAX_WAITING + 2):
                made.send(number, Reported(world.sealed(), 1.0))
            (refused,) = await made.answers(1)
            assert isinstance(refused, Fail)
            assert (refused.id, refused.code) == (MAX_WAITING + 1, "overloaded")
            assert refused.retry_after_s
            go.set()
            await blocked
            answers = await made.answers(MAX_WAITING + 2)
            assert [answer.id for answer in answers[1:]] == list(range(MAX_WAITING + 1))
            assert made.count() == MAX_WAITING + 1

    uvloop.run(run())


def test_other_work_with_the_database_takes_its_turn(world: World, tmp_path: Path) -> None:
    """However many calls wait, what control wants to store itself waits for one of them at most."""
    go = threading.Event()

    async def run() -> None:
        async with desk(world, tmp_path) as made:
            blocked = asyncio.ensure_future(world.thread(go.wait))
            for number in range(20):
                made.send(number, *[Reported(world.sealed(), 1.0) for _ in range(600)])
            await asyncio.sleep(0)
            seen = asyncio.ensure_future(world.thread(made.count))
            await asyncio.sleep(0)
            go.set()
            await blocked
            assert await seen <= 600
            await made.answers(20)
            assert made.count() == 20 * 600

    uvloop.run(run())


def test_those_that_wait_together_are_stored_together(world: World, tmp_path: Path) -> None:
    """Many single reports cost few transactions, and each call is answered with its own."""
    go = threading.Event()
    transactions: list[int] = []
    take = world.store.take

    def counted(
        endpoint: str,
        outcomes: list[Outcome],
        unix_ms: int,
        wanted: frozenset[str] = frozenset(),
    ) -> dict[int, float | InvalidRequest]:
        transactions.append(len(outcomes))
        return take(endpoint, outcomes, unix_ms, wanted)

    async def run() -> None:
        async with desk(world, tmp_path) as made:
            world.store.take = counted  # type: ignore[method-assign]
            blocked = asyncio.ensure_future(world.thread(go.wait))
            made.send(0, Reported(world.sealed(), 1.0))
            await asyncio.sleep(0)
            twice = Reported(world.sealed(), 1.0)
            made.send(1, twice, Reported("nonsense", 1.0))
            made.send(2, twice)
            made.send(3, msgspec.structs.replace(twice, value=0.0))
            made.reporter(made.link, Report(4, "none", "alice", "default", "r-1", (twice,)))
            made.send(5, *[Reported(world.sealed(), 1.0) for _ in range(MAX_RELAYED)])
            made.send(6, twice)
            go.set()
            await blocked
            answers = await made.answers(7)
            assert [answer.id for answer in answers] == list(range(7))
            found = [answer.taken for answer in answers if isinstance(answer, ReportTaken)]
            counts = [(one.taken, one.repeated) for one in found]
            assert counts == [(1, 0), (1, 0), (0, 1), (0, 0), (MAX_RELAYED, 0), (0, 1)]
            wrong = [(problem.number, problem.code) for one in found for problem in one.problems]
            assert wrong == [(2, "request_not_found"), (1, "feedback_differs")]
            assert isinstance(answers[4], Fail)
            assert transactions == [1, 3, MAX_RELAYED, 1]

    uvloop.run(run())


def test_together_is_as_one_by_one(world: World, tmp_path: Path) -> None:
    """Whatever is in the calls, each gets the answer that it would get by itself."""
    rng = random.Random(7)
    ids = [world.sealed() for _ in range(12)] + ["nonsense", world.sealed("other")]
    calls = [
        [Reported(rng.choice(ids), rng.choice((0.0, 1.0))) for _ in range(rng.randint(1, 6))]
        for _ in range(40)
    ]
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    together = uvloop.run(world.feedback.take_each("e", calls))
    assert together == [other.take(*call) for call in calls]
    assert world.store.count("e") == other.store.count("e")
    assert sum(one.repeated for one in together) > 10
    assert sum(len(one.problems) for one in together) > 10
    other.thread.stop()
    other.database.close()


def test_reports_of_a_link_that_is_gone_are_dropped(world: World, tmp_path: Path) -> None:
    """Whoever sent them was told to send them again, so nobody waits for them."""
    go = threading.Event()

    async def run() -> None:
        async with desk(world, tmp_path) as made:
            blocked = asyncio.ensure_future(world.thread(go.wait))
            for number in range(3):
                made.send(number, *[Reported(world.sealed(), 1.0) for _ in range(600)])
            await asyncio.sleep(0)
            made.link.close()
            await made.gateway.until_lost()
            task = made.reporter._task
            assert task is not None
            go.set()
            await blocked
            await task
            # The first was being stored when the link broke.
            assert made.count() == 600

    uvloop.run(run())
