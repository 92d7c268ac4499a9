"""What a worker does when its memory is short: lets go, refuses, and serves again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvloop

from salver.core.settings import Settings
from salver.engine.worker.app import Worker, WorkerIdentity
from salver.engine.worker.loader import Loader
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.table import BATCH_RUNTIMES, create_batch, create_stream
from salver.wire.copies import Copies
from salver.wire.transport import LinkOptions
from tests.engine.client.test_handler import check_answers, outcomes
from tests.engine.fleet import (
    CLOCK,
    QUARANTINE,
    VARIANT,
    Callers,
    Fleet,
    Model,
    client_of,
    finish,
    until,
)

SHARED = "shared-0"


@contextlib.asynccontextmanager
async def short_worker(name: str = QUARANTINE) -> AsyncIterator[tuple[Worker, Callers]]:
    """Give a worker in this process and its client; in quarantine its model is loaded when asked.

    Elsewhere it is in memory, and stays.
    """
    running = Fleet((Model(),), 1 if name == SHARED else 0, {})
    home = running.home
    blobs, copies = home / "blobs" / "sha256", Copies(home / "run", name, "test")
    identity = WorkerIdentity(name, "test", f"unix:{home}/run/worker-{name}.sock", home)
    loader = Loader(blobs, copies, RuntimeOptions(), create_batch, create_stream)
    worker = Worker(identity, Settings(), loader, CLOCK, LinkOptions(), lambda: None)
    try:
        await worker.start()
        async with client_of(running) as callers:
            link = callers.client._links[name]
            await until(lambda: VARIANT in link.ready)
            route = callers.client.route(VARIANT)
            assert route is not None
            route.links = [link]
            yield worker, callers
    finally:
        await worker.stop()
        running.close()


def use(worker: Worker, share: float) -> None:
    """Let so much of the memory be in use."""
    worker._scarcity.guard._share = lambda: share
    worker._scarcity.guard.check()


@pytest.fixture(autouse=True)
def known_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process know the runtimes of these tests."""
    monkeypatch.setitem(BATCH_RUNTIMES, "affine", "tests.engine.runtimes:Affine")


def test_idle_models_that_can_be_loaded_again_are_let_go() -> None:
    """They leave when memory is short, not before, and come back when they are asked for."""

    async def run() -> None:
        async with short_worker() as (worker, callers):
            await finish([callers.ask(1.0)])
            host = worker._hosts[VARIANT]
            use(worker, 0.85)
            assert host.loading.state == "ready"
            use(worker, 0.9)
            assert host.loading.runtime is None
            assert host.loading.state == "lazy"
            await finish([callers.ask(2.0)])
            check_answers(callers.all)
            assert outcomes(callers.all) == {"ok": 2}

    uvloop.run(run())


@pytest.mark.parametrize("name", [QUARANTINE, SHARED])
def test_requests_are_refused_and_served_again(name: str) -> None:
    """At the last step single requests and cohorts are overloaded; what runs is answered.

    Whether or not the model was sent away before.
    """

    async def run() -> None:
        async with short_worker(name) as (worker, callers):
            first = callers.ask(1.0)
            await asyncio.sleep(0)
            await finish([first])
            use(worker, 0.97)
            refused = [callers.ask(2.0), *callers.ask_together([3.0, 4.0, 5.0])]
            await finish(refused)
            assert outcomes(refused) == {"overloaded": 4}
            assert all(c.error is not None and c.error.retry_after_s for c in refused)
            use(worker, 0.5)
            again = [callers.ask(2.0), *callers.ask_together([3.0, 4.0, 5.0])]
            await finish(again)
            assert outcomes(again) == {"ok": 4}
            check_answers(callers.all)

    uvloop.run(run())


def test_models_of_a_later_plan_are_refused_too() -> None:
    """A version that comes while memory is used up takes no requests either."""

    async def run() -> None:
        async with short_worker() as (worker, callers):
            use(worker, 0.97)
            worker._hosts.clear()
            assert worker._follower is not None
            assert worker._follower.plan is not None
            worker.apply(worker._follower.plan)
            await finish([callers.ask(1.0)])
            assert outcomes(callers.all) == {"overloaded": 1}

    uvloop.run(run())
