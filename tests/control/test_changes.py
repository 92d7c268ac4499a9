"""What control does with changes that gateways ask for, asked over its own link."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from salver.control.changes import MAX_OPEN
from salver.wire.connection import Connection
from salver.wire.messages import (
    PROTOCOL_VERSION,
    Change,
    Changed,
    Fail,
    Hello,
    Plan,
    PlanAck,
    PlanPush,
)
from salver.wire.transport import connect
from tests.e2e.server import Server, ask
from tests.wire.links import Inbox

LOAD = Change(1, "load", "scaled", "alice", "default", "r-1", 30_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server that takes changes, with an endpoint."""
    folder = tmp_path_factory.mktemp("changes")
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text("http: {repository_changes: true}")
    with Server(home) as running:
        running.deploy_scaled(folder)
        yield running


@asynccontextmanager
async def linked(server: Server, role: str = "gateway") -> AsyncIterator[tuple[Connection, Inbox]]:
    """Give a link to control as a process of a role, and what control says on it."""
    inbox = Inbox()
    hello = Hello(PROTOCOL_VERSION, role, f"{role}-9", "test")
    address = f"unix:{server.home / 'run' / 'control.sock'}"
    connection = await connect(address, hello, inbox.accept, 10.0)
    try:
        await until(inbox, lambda: bool(plans(inbox)))
        yield connection, inbox
    finally:
        connection.close()


async def until(inbox: Inbox, holds: Callable[[], bool]) -> None:
    """Wait until what has arrived is enough."""
    async with asyncio.timeout(30):
        while not holds():
            inbox.news.clear()
            await inbox.news.wait()


def plans(inbox: Inbox) -> list[Plan]:
    """Return the plans that came."""
    return [message.plan for message, _ in inbox.messages if isinstance(message, PlanPush)]


def answers(inbox: Inbox) -> list[Changed | Fail]:
    """Return the answers that came."""
    return [message for message, _ in inbox.messages if isinstance(message, Changed | Fail)]


async def answer_to(
    connection: Connection, inbox: Inbox, change: Change, *, acts: bool = True
) -> Changed | Fail:
    """Ask, as a gateway that acts on the plan or not, and return the answer."""
    if acts:
        connection.send(PlanAck(plans(inbox)[-1].number))
    connection.send(change)
    await until(inbox, lambda: bool(answers(inbox)))
    return answers(inbox)[0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Change(1, "load", "scaled", "a", "default", "r", 10_000_000), ""),
        (Change(2, "load", "scaled", "a", "others", "r", 10_000_000), "model_not_found"),
        (Change(3, "unload", "scaled", "a", "others", "r", 10_000_000), "endpoint_not_found"),
        (Change(4, "load", "nothing", "a", "default", "r", 10_000_000), "model_not_found"),
        (Change(5, "load", "../x", "a", "default", "r", 10_000_000), "invalid_name"),
        (Change(6, "erase", "scaled", "a", "default", "r", 10_000_000), "invalid_request"),
        (Change(7, "load", "scaled", "a", "default", "r", -1), "deadline_exceeded"),
    ],
)
def test_what_control_checks(server: Server, change: Change, code: str) -> None:
    """Models, names, tenants and actions are control's to check; the answer names its question."""

    async def run() -> None:
        async with linked(server) as (connection, inbox):
            # A gateway that does not act on the plan is waited for, until time is up.
            answer = await answer_to(connection, inbox, change, acts=change.remaining_us > 0)
            assert answer.id == change.id
            assert (answer.code if isinstance(answer, Fail) else "") == code

    uvloop.run(run())
    assert ask(server.port, "scaled", 4.0)[0] == 200


def test_control_takes_so_many_at_once(server: Server) -> None:
    """One more than the limit is refused with a pause; the others are answered when they can be."""

    async def run() -> None:
        async with linked(server) as (connection, inbox):
            # None of them can be answered while this gateway does not act on the plan.
            for number in range(MAX_OPEN + 1):
                connection.send(numbered(number))
            await until(inbox, lambda: bool(answers(inbox)))
            (refusal,) = answers(inbox)
            assert isinstance(refusal, Fail)
            assert (refusal.id, refusal.code) == (MAX_OPEN, "overloaded")
            assert refusal.retry_after_s
            connection.send(PlanAck(plans(inbox)[-1].number))
            await until(inbox, lambda: len(answers(inbox)) == MAX_OPEN + 1)
            done = [answer for answer in answers(inbox) if isinstance(answer, Changed)]
            assert sorted(answer.id for answer in done) == list(range(MAX_OPEN))

    uvloop.run(run())


def numbered(number: int) -> Change:
    """Return a load of what is served."""
    return Change(number, "load", "scaled", "alice", "default", "r", 30_000_000)


def test_unloaded_is_unloaded_everywhere(server: Server) -> None:
    """Unload is answered when every gateway acts on a plan without the endpoint, not before."""
    server.ok("deploy", "scaled", "--endpoint", "leaving")
    unload = Change(1, "unload", "leaving", "alice", "default", "r", 30_000_000)
    probe = Change(2, "load", "../x", "alice", "default", "r", 30_000_000)

    async def run() -> None:
        async with linked(server) as (connection, inbox):
            connection.send(PlanAck(plans(inbox)[-1].number))
            connection.send(unload)
            await until(inbox, lambda: not shows(plans(inbox)[-1], "leaving"))
            connection.send(probe)
            await until(inbox, lambda: bool(answers(inbox)))
            assert [answer.id for answer in answers(inbox)] == [probe.id]
            connection.send(PlanAck(plans(inbox)[-1].number))
            await until(inbox, lambda: len(answers(inbox)) == 2)
            assert answers(inbox)[-1] == Changed(unload.id)

    uvloop.run(run())
    assert ask(server.port, "leaving", 4.0)[0] == 404


def shows(plan: Plan, name: str) -> bool:
    """Tell whether a plan has an endpoint."""
    return name in [endpoint.name for endpoint in plan.endpoints]


def test_only_gateways_are_heard(server: Server) -> None:
    """A worker that asks for a change gets no answer, and nothing changes."""

    async def run() -> None:
        async with linked(server, "worker") as (connection, inbox):
            connection.send(Change(1, "unload", "scaled", "a", "default", "r", 1_000_000))
            async with linked(server) as (other, news):
                assert isinstance(await answer_to(other, news, LOAD), Changed)
            assert not answers(inbox)

    uvloop.run(run())
    assert ask(server.port, "scaled", 4.0)[0] == 200


def test_control_has_the_switch_too(tmp_path: Path) -> None:
    """Where changes are off, control refuses even a gateway that asks."""

    async def run(server: Server) -> None:
        async with linked(server) as (connection, inbox):
            for action in ("load", "unload"):
                change = Change(1, action, "scaled", "a", "default", "r", 1_000_000)
                answer = await answer_to(connection, inbox, change)
                assert isinstance(answer, Fail)
                assert answer.code == "unsupported_operation"
            assert plans(inbox)[-1].unloaded == ()

    with Server(tmp_path / "home") as server:
        server.deploy_scaled(tmp_path)
        uvloop.run(run(server))
        assert ask(server.port, "scaled", 4.0)[0] == 200
