"""Models that end the process of their worker while they load, in real processes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import uvloop

from salver.engine.worker.attempts import key_of
from salver.wire.attempts import Attempts, read
from salver.wire.connection import Connection
from salver.wire.messages import Plan, PlanPush, VariantState
from salver.wire.planfile import write_plan
from salver.wire.transport import listen
from tests.engine.client.test_handler import check_answers, outcomes
from tests.engine.fleet import QUARANTINE, Fleet, Model, client_of, finish, until
from tests.engine.runtimes import ESCAPES
from tests.engine.worker.test_app import hang_up, last, states
from tests.wire.links import Inbox, hello

ENVIRONMENT = {"SALVER_CONTROL__SNAPSHOT_INTERVAL_S": "0.05"}
BUDGET = {"SALVER_ENGINE__MEMORY_BUDGET_BYTES": str(1 << 34)}
WORKER = "shared-0"
MIB = 1024 * 1024


class Watched:
    """A fleet of one worker that is kept alive, and what its processes reported last."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._inboxes: list[Inbox] = []

    def accept(self, connection: Connection) -> Inbox:
        """Be control for a process."""
        self._inboxes.append(Inbox())
        return self._inboxes[-1].accept(connection)

    @property
    def inbox(self) -> Inbox:
        """The link of the process that runs now."""
        named = [one for one in self._inboxes if not one.lost and _identity(one) == WORKER]
        return named[-1] if named else Inbox()

    @property
    def states(self) -> dict[str, str]:
        """The states of what the worker hosts."""
        return states(self.inbox)

    def state(self, variant: str) -> VariantState:
        """Return all that is said of a version."""
        snapshot = last(self.inbox)
        assert snapshot is not None
        return next(one for one in snapshot.variants if one.variant == variant)

    def push(self, plan: Plan) -> None:
        """Put another plan in force."""
        connection = self.inbox.connection
        assert connection is not None
        connection.send(PlanPush(plan))

    async def hang_up(self) -> None:
        """Close every link."""
        for inbox in self._inboxes:
            await hang_up(inbox)


def _identity(inbox: Inbox) -> str:
    connection = inbox.connection
    return connection.peer.identity if connection is not None and connection.peer else ""


@contextlib.asynccontextmanager
async def watched(
    *models: Model,
    environment: dict[str, str] = ENVIRONMENT,
    adapt: Callable[[Plan], Plan] = lambda plan: plan,
    prepare: Callable[[Fleet], None] = lambda _fleet: None,
) -> AsyncIterator[Watched]:
    """Keep a worker with these models alive."""
    fleet = Fleet(models, 1, environment)
    fleet.plan = adapt(fleet.plan)
    write_plan(fleet.home / "run" / "plan.msgpack", fleet.plan)
    prepare(fleet)
    found = Watched(fleet)
    door = await listen(f"unix:{fleet.home}/run/control.sock", hello("control"), found.accept)
    for name in (WORKER, QUARANTINE):
        fleet.start(name)
    keeping = asyncio.create_task(fleet.keep_alive())
    try:
        yield found
    finally:
        keeping.cancel()
        fleet.close()
        await door.close()
        await found.hang_up()


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    """Give a file; while it is there, ``deadly`` models end their process when they load."""
    path = tmp_path / "diary"
    path.write_text("")
    return path


def deadly(diary: Path, variant: str = "deadly:1") -> Model:
    """Return a model that ends its process while the diary is there."""
    return Model(variant, content=f"die {diary}".encode())


def ends(diary: Path) -> int:
    """Count the processes that it ended."""
    return diary.read_text().count("it ended")


@pytest.mark.parametrize("budget", [{}, BUDGET])
def test_it_is_tried_once_more_and_then_failed(diary: Path, budget: dict[str, str]) -> None:
    """Two processes end of it, and one that does nothing else; the third tells, and serves others.

    Whoever comes after the third keeps it out without another attempt.
    """

    async def run() -> None:
        models = deadly(diary), Model(), Model("other:1")
        async with watched(*models, environment={**ENVIRONMENT, **budget}) as one:
            settled = {"deadly:1": "failed", "affine:1": "ready", "other:1": "ready"}
            await until(lambda: one.states == settled)
            assert ends(diary) == 3
            state = one.state("deadly:1")
            assert state.code == "load_failed"
            assert "2 processes of worker shared-0 ended while they loaded it" in state.error
            assert "one that did nothing else ended as well (exit 9)" in state.error
            assert one.fleet.starts[WORKER] == 3
            one.fleet.kill(WORKER)
            inbox = one.inbox
            await until(lambda: bool(inbox.lost))
            await until(lambda: one.states == settled)
            assert ends(diary) == 3
            one.fleet.models = models[1:]
            async with client_of(one.fleet) as callers:
                await finish([callers.ask(float(number)) for number in range(8)])
                assert outcomes(callers.all) == {"ok": 8}
                check_answers(callers.all)

    uvloop.run(run())


@pytest.mark.parametrize("budget", [{}, BUDGET])
def test_who_only_loaded_at_the_same_time_is_not_blamed(
    diary: Path, budget: dict[str, str]
) -> None:
    """Of two that kill and two that do not, all tried at once at first, the right two fail."""

    async def run() -> None:
        models = (
            deadly(diary),
            Model("slow:1", content=b"slow"),
            deadly(diary, "deadly:2"),
            Model("slow:2", content=b"slow"),
        )
        async with watched(*models, environment={**ENVIRONMENT, **budget}) as one:
            settled = {
                "deadly:1": "failed",
                "slow:1": "ready",
                "deadly:2": "failed",
                "slow:2": "ready",
            }
            await until(lambda: one.states == settled)
            # Both at once, or one by one with a budget; then each once alone, and once apart.
            assert ends(diary) == 6 if budget else ends(diary) in (5, 6)

    uvloop.run(run())


@pytest.mark.parametrize("budget", [{}, BUDGET])
@pytest.mark.parametrize("order", sorted(ESCAPES))
def test_what_no_handler_of_errors_catches_is_a_failure_too(
    order: str, budget: dict[str, str]
) -> None:
    """A load that asks for the end of its process, or panics, fails at once, and ends nothing."""

    async def run() -> None:
        models = Model("bad:1", content=order.encode()), Model()
        async with watched(*models, environment={**ENVIRONMENT, **budget}) as one:
            await until(lambda: one.states == {"bad:1": "failed", "affine:1": "ready"})
            state = one.state("bad:1")
            assert state.code == "load_failed"
            assert f"{ESCAPES[order].__name__}: it gave up" in state.error
            assert one.fleet.starts[WORKER] == 1

    uvloop.run(run())


def test_one_end_may_be_an_accident(diary: Path) -> None:
    """A process that is killed while a good model loads costs it nothing, however often."""

    async def run() -> None:
        async with watched(Model("slow:1", content=b"slow")) as one:
            run_folder = one.fleet.home / "run"
            for _ in range(2):
                await until(lambda: bool(read(run_folder, WORKER).going_on))
                one.fleet.kill(WORKER)
                before = one.fleet.starts[WORKER]
                await until(lambda before=before: one.fleet.starts[WORKER] > before)  # type: ignore[misc]
                await until(lambda: one.states == {"slow:1": "ready"})
                assert read(run_folder, WORKER) == Attempts()
                one.fleet.kill(WORKER)
                inbox = one.inbox
                await until(lambda inbox=inbox: bool(inbox.lost))  # type: ignore[misc]

    uvloop.run(run())


def test_where_nobody_else_suffers_it_is_tried_again(diary: Path) -> None:
    """In a worker of its own, after a pause that grows with each end; mended it serves."""

    def own(plan: Plan) -> Plan:
        workers = [
            msgspec.structs.replace(worker, kind="dedicated") if worker.id == WORKER else worker
            for worker in plan.workers
        ]
        return msgspec.structs.replace(plan, workers=tuple(workers))

    async def run() -> None:
        environment = {**ENVIRONMENT, "SALVER_ENGINE__LOAD_AGAIN_S": "0.5"}
        async with watched(deadly(diary), environment=environment, adapt=own) as one:
            await until(lambda: ends(diary) >= 3 and one.states == {"deadly:1": "failed"})
            assert "3 processes" in one.state("deadly:1").error
            assert "it is tried again in 1 s" in one.state("deadly:1").error
            diary.unlink()  # noqa: ASYNC240 - nobody else waits for this loop
            await until(lambda: one.states == {"deadly:1": "ready"})
            assert read(one.fleet.home / "run", WORKER) == Attempts()

    uvloop.run(run())


def test_what_is_asked_for_anew_is_tried_anew(diary: Path) -> None:
    """A version that left the plan and is back, and one that is to run otherwise, are no suspects.

    A worker that was told to stop leaves no note at all.
    """

    async def run() -> None:
        async with watched(deadly(diary), Model()) as one:
            settled = {"deadly:1": "failed", "affine:1": "ready"}
            await until(lambda: one.states == settled)
            one.push(one.fleet.write((Model(),), 2))
            await until(lambda: one.states == {"affine:1": "ready"})
            one.push(one.fleet.write((deadly(diary), Model()), 3))
            await until(lambda: ends(diary) == 6 and one.states == settled)
            execution = msgspec.structs.replace(Model().execution, threads=2)
            diary.unlink()  # noqa: ASYNC240 - nobody else waits for this loop
            changed = msgspec.structs.replace  # a plan as control would make it
            plan = one.fleet.write((deadly(diary), Model()), 4)
            workers = tuple(
                changed(
                    worker,
                    loads=tuple(changed(load, execution=execution) for load in worker.loads),
                )
                for worker in plan.workers
            )
            one.push(changed(plan, workers=workers))
            await until(lambda: one.states == dict.fromkeys(settled, "ready"))
            first = plan.workers[0].loads[0]
            assert key_of(first) != key_of(changed(first, execution=execution))

    uvloop.run(run())


def test_one_that_hangs_alone_keeps_no_other_waiting() -> None:
    """Nobody can end a load that never ends; what was suspected with it is loaded all the same."""

    async def run() -> None:
        models = Model("hung:1", "ballast", b"8 3600 0"), Model("slow:1", content=b"slow")
        environment = {**ENVIRONMENT, "SALVER_ENGINE__LOAD_TIMEOUT_S": "2"}
        async with watched(*models, environment=environment) as one:
            run_folder = one.fleet.home / "run"
            await until(lambda: len(read(run_folder, WORKER).going_on) == len(models))
            one.fleet.kill(WORKER)
            await until(lambda: one.states == {"hung:1": "failed", "slow:1": "ready"})
            assert "did not load within 2.0 s" in one.state("hung:1").error

    uvloop.run(run())


def test_what_was_given_up_takes_no_room_from_others(diary: Path) -> None:
    """Pinned or not, a budget has nothing set aside for it, also after later plans."""

    async def run() -> None:
        big = 200 * MIB
        given_up = Model(
            "deadly:1", content=f"die {diary}".encode(), pinned=True, size_hint_bytes=9 * big
        )
        other = Model("other:1", "ballast", f"{big} 0 0".encode(), size_hint_bytes=big, pinned=True)
        budget = {"SALVER_ENGINE__MEMORY_BUDGET_BYTES": str(10 * big)}
        async with watched(given_up, environment={**ENVIRONMENT, **budget}) as one:
            await until(lambda: one.states == {"deadly:1": "failed"})
            one.push(one.fleet.write((given_up,), 2))
            one.push(one.fleet.write((given_up, other), 3))
            await until(lambda: one.states == {"deadly:1": "failed", "other:1": "ready"})

    uvloop.run(run())
