"""The quarantine worker: loads late, runs one at a time, lets go."""

import asyncio

import uvloop

from salver.core.errors import WireError
from salver.engine.client.link import WorkerLink
from salver.wire.framing import Buffer
from salver.wire.messages import Message, Snapshot
from tests.engine.fleet import (
    CLOCK,
    QUARANTINE,
    VARIANT,
    Fleet,
    Model,
    client_of,
    finish,
    fleet,
    until,
)
from tests.engine.runtimes import POISON


class Watcher:
    """Receiver that notes the states a worker tells before it passes the messages on."""

    def __init__(self, link: WorkerLink) -> None:
        self._link = link
        self._states: dict[str, str] = {}
        assert link._connection is not None
        link._connection._receiver = self

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Note and pass on."""
        if isinstance(message, Snapshot):
            self._states |= {item.variant: item.state for item in message.variants}
        self._link.on_message(message, payload)

    def on_lost(self, error: WireError | None) -> None:
        """Pass on."""
        self._link.on_lost(error)

    def state(self) -> str:
        """Return what was last said of the model."""
        return self._states.get(VARIANT, "")


def test_loads_at_the_first_request_and_lets_go() -> None:
    """Nothing is loaded until a request comes, which waits and is told cold.

    The model is released when it is not used any more.
    """

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            link = callers.client._links[QUARANTINE]
            await until(lambda: VARIANT in link.ready)
            watcher = Watcher(link)
            route = callers.client._routes[VARIANT]
            route.links = [link]
            cold = callers.ask(1.0)
            await finish([cold])
            warm = callers.ask(2.0)
            await finish([warm])
            timings = [caller.responses[0].timing for caller in (cold, warm)]
            assert [t.cold for t in timings if t is not None] == [True, False]
            assert [cold.answer, warm.answer] == [4.0, 7.0]
            assert watcher.state() == "ready"
            await until(lambda: watcher.state() == "lazy")
            again = callers.ask(3.0)
            await finish([again])
            assert again.answer == 10.0

    with fleet(environment={"SALVER_ENGINE__QUARANTINE_IDLE_S": "0.2"}) as running:
        uvloop.run(run(running))


def test_innocents_beside_a_poison_of_another_model() -> None:
    """What waits in quarantine while another version's poison kills it is still answered.

    The process is busy with one request at a time over all versions.
    """

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            nurse = asyncio.create_task(running.keep_alive())
            for variant in (VARIANT, "other:1"):
                route = callers.client._routes[variant]
                route.links = [callers.client._links[QUARANTINE]]
                route.settle_ns = CLOCK.monotonic_ns() + 60_000_000_000
            await until(lambda: callers.client.ready_workers("other:1") == 1)
            innocent = [callers.ask(float(n)) for n in range(3)]
            poison = callers.ask(POISON, variant="other:1")
            innocent += [callers.ask(float(n)) for n in range(3, 6)]
            await finish([*innocent, poison])
            nurse.cancel()
            assert poison.outcome == "worker_crashed"
            assert {caller.outcome for caller in innocent} == {"ok"}

    models = (Model(runtime="slow"), Model("other:1", "slow"))
    with fleet(*models) as running:
        uvloop.run(run(running))


def test_a_failed_load_is_answered_and_tried_again() -> None:
    """A version that cannot be loaded in quarantine answers so, at every request."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            link = callers.client._links[QUARANTINE]
            await until(lambda: "bad:1" in link.ready)
            callers.client._routes["bad:1"].links = [link]
            for _ in range(2):
                caller = callers.ask(1.0, variant="bad:1")
                await finish([caller])
                assert caller.outcome == "load_failed"

    with fleet(Model("bad:1", content=b"fail")) as running:
        uvloop.run(run(running))
