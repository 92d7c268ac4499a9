"""Several instances of a model in one worker process, and changes of how it is run."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uvloop

from salver.core.errors import LoadFailed
from salver.core.hosting import Execution
from salver.core.settings import EngineSettings
from salver.engine.client.link import WorkerLink
from salver.engine.ledger import SLOTS
from salver.engine.worker.crew import Crew
from salver.engine.worker.seats import Seats
from salver.runtimes.base import RuntimeOptions
from salver.wire.messages import BatchPolicy, PlanPush, VariantState
from tests.engine.fleet import Callers, Fleet, Model, client_of, finish, fleet, until
from tests.engine.runtimes import POISON, SIGNATURE, Affine, Sparse
from tests.engine.worker.test_shelf import Desk, budgeted, desk_of
from tests.engine.worker.test_shelf import run as run_as_control

ALONE = BatchPolicy(max_batch_size=1)


@pytest.mark.parametrize("runner", ["inline", "auto", "thread"])
def test_batches_run_at_the_same_time(runner: str) -> None:
    """Runs that wait for one another all end, each in the thread its instance was loaded in."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            asked = [callers.ask(float(value)) for value in range(6)]
            await finish(asked)
            assert [caller.answer for caller in asked] == [3.0 * v + 1 for v in range(6)]

    model = Model(runtime="meeting", policy=ALONE, execution=Execution(2))
    with fleet(model, environment={"SALVER_ENGINE__RUNNER": runner}) as running:
        uvloop.run(run(running))


def _running(link: WorkerLink) -> set[int]:
    """Return the requests of which the client could know that they run."""
    noted = link.running.noted()
    return {one.id for one in link.pending.values() if one.started or one.id in noted}


@pytest.mark.parametrize("ledger", [True, False])
def test_every_running_batch_is_known_after_a_death(ledger: bool) -> None:
    """Of many requests, exactly those of the three instances were running; all are answered."""

    async def run(running: Fleet) -> None:
        async with client_of(running, EngineSettings(ledger=ledger)) as callers:
            await finish([callers.ask(0.0)])
            asked = [callers.ask(float(value)) for value in range(1, 13)]
            link = callers.client._links["shared-0"]
            await until(lambda: len(_running(link)) == 3)
            lost: list[bool] = []
            was_lost = callers.client.lost

            def watch(link: WorkerLink, pending: list[object]) -> None:
                lost.extend(item.started for item in pending)  # type: ignore[attr-defined]
                was_lost(link, pending)  # type: ignore[arg-type]

            callers.client.lost = watch  # type: ignore[method-assign, assignment]
            running.kill("shared-0")
            await finish(asked)
            assert sum(lost) == 3
            assert len(lost) > 3
            retried = [caller for caller in asked if caller.outcome == "ok"]
            assert len(retried) == 3

    model = Model(runtime="very-slow", policy=ALONE, execution=Execution(3))
    with fleet(model) as running:
        uvloop.run(run(running))


def test_poison_of_one_instance_hurts_itself_only() -> None:
    """What ran beside it is tried again in quarantine and answered; the poison is told as such."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            good = callers.ask(1.0)
            link = callers.client._links["shared-0"]
            await until(lambda: len(_running(link)) == 1)
            bad = callers.ask(POISON)
            await finish([good, bad])
            assert good.answer == 4.0
            assert bad.outcome == "worker_crashed"

    model = Model(runtime="very-slow", policy=ALONE, execution=Execution(2))
    with fleet(model) as running:
        uvloop.run(run(running))


async def change(running: Fleet, desk: Desk, execution: Execution, number: int) -> VariantState:
    """Have the version run otherwise; returns what the worker reports when it has tried."""
    running.models = tuple(dataclasses.replace(m, execution=execution) for m in running.models)
    inbox = desk.inbox()
    assert inbox is not None
    assert inbox.connection is not None
    inbox.connection.send(PlanPush(running.write(running.models, number)))

    def tried() -> bool:
        return desk.snapshot is not None and desk.snapshot.variants[0].execution == execution

    await until(tried)
    assert desk.snapshot is not None
    return desk.snapshot.variants[0]


@pytest.mark.parametrize("budget_bytes", [0, 1 << 40])
def test_a_change_of_instances_fails_no_request(budget_bytes: int) -> None:
    """What is loaded serves until the new instances do, and batches begun before end well."""

    async def work(desk: Desk, callers: Callers) -> None:
        await finish([callers.ask(0.0)])
        link = callers.client._links["shared-0"]
        for number, count in enumerate((3, 1, 2), start=2):
            before = [callers.ask(float(value)) for value in range(2 * count)]
            state = await change(running, desk, Execution(count), number)
            assert (state.state, state.code) == ("ready", "")
            after = [callers.ask(float(value)) for value in range(2 * count)]
            await until(lambda count=count: len(_running(link)) >= count)  # type: ignore[misc]
            await finish([*before, *after])
            assert {caller.outcome for caller in (*before, *after)} == {"ok"}

    model = Model(runtime="very-slow", policy=ALONE)
    with budgeted(model, budget_bytes=budget_bytes) as running:
        run_as_control(running, work)


@pytest.mark.parametrize("budget_bytes", [0, 1 << 40])
def test_a_change_that_fails_leaves_what_serves(budget_bytes: int) -> None:
    """The version goes on to answer as before, says why, and a change that works ends that."""

    async def work(desk: Desk, callers: Callers) -> None:
        assert (await change(running, desk, Execution(1, 2), 2)).code == ""
        state = await change(running, desk, Execution(2), 3)
        assert (state.state, state.code) == ("ready", "load_failed")
        assert "one too many" in state.error
        asked = [callers.ask(float(value)) for value in range(6)]
        await finish(asked)
        assert [caller.answer for caller in asked] == [3.0 * v + 1 for v in range(6)]

    with budgeted(Model(runtime="picky", content=b"3"), budget_bytes=budget_bytes) as running:
        run_as_control(running, work)


def test_a_failed_version_is_tried_again_in_another_way() -> None:
    """One that could not load as it was wanted loads as soon as it is wanted otherwise."""

    async def work() -> None:
        async with desk_of(running) as desk:
            await until(lambda: desk.states() == {"affine:1": "failed"})
            state = await change(running, desk, Execution(1), 2)
            assert (state.state, state.code) == ("ready", "")

    model = Model(runtime="sparse", execution=Execution(4))
    with fleet(model, environment={"SALVER_CONTROL__SNAPSHOT_INTERVAL_S": "0.05"}) as running:
        uvloop.run(work())


def test_a_crew_is_loaded_whole_or_not_at_all(tmp_path: Path) -> None:
    """When one instance cannot load, those before it are released; one by one they all answer."""
    crew = Crew(Sparse, 4)
    with pytest.raises(LoadFailed, match="three already"):
        crew.load(tmp_path, SIGNATURE, RuntimeOptions())
    assert crew.members == ()
    crew = Crew(Sparse, 3)
    crew.load(tmp_path, SIGNATURE, RuntimeOptions())
    assert crew.run({"x": np.array([[2.0]])}, None)["y"].tolist() == [[7.0]]
    with pytest.raises(LoadFailed):
        Sparse().load(tmp_path, SIGNATURE, RuntimeOptions())
    crew.unload()
    Sparse().load(tmp_path, SIGNATURE, RuntimeOptions())


def test_no_two_running_batches_share_a_slot() -> None:
    """Also while instances are replaced; without a slot left a batch is announced by message."""
    threads = ThreadPoolExecutor(1)
    seats = Seats((4, 9), lambda: None, alone=False)
    seats.fill(Affine(), threads)
    old = seats.next()
    seats.take()
    assert seats.is_full
    seats.fill(Affine(), threads)
    assert not seats.is_full
    new = seats.next()
    seats.take()
    assert {old.slot, new.slot} == {4, 9}
    seats.fill(Affine(), threads)
    third = seats.next()
    seats.take()
    assert third.slot == SLOTS
    for seat in (old, third, new):
        seats.leave(seat)
    assert seats.running == 0
    assert not seats.is_full
    again = seats.next()
    assert again is third
    assert again.slot in (4, 9)
