"""Workers that give no sign of life: what waits there moves, what is new goes elsewhere."""

import asyncio
import signal
from collections.abc import Iterator, Sequence

import msgspec
import pytest
import uvloop

from salver.core.settings import EngineSettings
from salver.wire.framing import Buffer
from salver.wire.messages import Infer, InferMany, Message
from tests.engine.client.test_handler import check_answers, outcomes
from tests.engine.fleet import VARIANT, Fleet, Model, client_of, finish, fleet, until

QUICK = EngineSettings(silent_s=1.5)


@pytest.fixture
def two() -> Iterator[Fleet]:
    """Give two workers, which nobody restarts."""
    with fleet(Model(runtime="slow"), workers=2) as running:
        yield running


def stop(running: Fleet, name: str) -> None:
    """Stop a worker's process, which closes nothing."""
    running.processes[name].send_signal(signal.SIGSTOP)


def test_what_waits_in_a_stopped_worker_moves(two: Fleet) -> None:
    """Its requests are answered by the other one, new ones go there, and it may come back."""

    async def run() -> None:
        async with client_of(two, QUICK) as callers:
            stop(two, "shared-0")
            held = [callers.ask(float(value)) for value in range(20)]
            held += callers.ask_together([float(value) for value in range(20, 30)])
            links = callers.client._links
            assert links["shared-0"].open_count > 0
            await finish(held)
            assert outcomes(held) == {"ok": 30}
            check_answers(held)
            late = [callers.ask(float(value)) for value in range(20)]
            assert links["shared-0"].open_count == 0
            await finish(late)
            assert outcomes(late) == {"ok": 20}
            two.processes["shared-0"].send_signal(signal.SIGCONT)
            await until(lambda: not links["shared-0"].signs.silent)
            again = [callers.ask(float(value)) for value in range(20)]
            assert links["shared-0"].open_count > 0
            await finish(again)
            assert outcomes(again) == {"ok": 20}
            assert callers.client.in_flight == 0

    uvloop.run(run())


def test_what_moves_before_it_was_sent_is_sent_once(two: Fleet) -> None:
    """A worker never gets a request under an id that another worker's link has given it."""

    async def run() -> None:
        async with client_of(two, QUICK) as callers:
            links = callers.client._links
            first, second = links["shared-0"], links["shared-1"]
            second._last_id += 1000
            before = first._last_id
            held = [callers.ask(float(value)) for value in range(8)]
            assert first._turn
            connection = first._connection
            assert connection is not None
            sent: list[Message] = []
            queue = connection.queue

            def record(message: Message, buffers: Sequence[Buffer] = ()) -> None:
                sent.append(message)
                queue(message, buffers)

            connection.queue = record  # type: ignore[method-assign]
            first.signs.silent = True
            callers.client._relieve(first)
            first.signs.silent = False
            await finish(held)
            check_answers(held)
            assert first._last_id > before
            assert not [one for one in sent if isinstance(one, Infer | InferMany)]

    uvloop.run(run())


def test_what_may_not_run_twice_stays(two: Fleet) -> None:
    """A stopped worker may go on: what is not to be repeated waits for that, and is answered."""

    async def run() -> None:
        async with client_of(two, QUICK) as callers:
            stop(two, "shared-0")
            marked = [callers.ask(float(value), idempotent=False) for value in range(20)]
            link = callers.client._links["shared-0"]
            await until(lambda: link.signs.silent)
            await asyncio.sleep(1.0)
            assert {caller.outcome for caller in marked} == {"ok", ""}
            two.processes["shared-0"].send_signal(signal.SIGCONT)
            await finish(marked)
            assert outcomes(marked) == {"ok": 20}
            check_answers(marked)

    uvloop.run(run())


def test_nobody_else_is_better_than_nobody() -> None:
    """The only worker gets what there is while it is silent, and answers when it goes on."""

    async def run(running: Fleet) -> None:
        async with client_of(running, QUICK) as callers:
            stop(running, "shared-0")
            held = [callers.ask(1.0)]
            await until(lambda: callers.client._links["shared-0"].signs.silent)
            held.append(callers.ask(2.0))
            running.processes["shared-0"].send_signal(signal.SIGCONT)
            await finish(held)
            assert outcomes(held) == {"ok": 2}

    with fleet(workers=1) as running:
        uvloop.run(run(running))


def test_what_waited_in_a_dead_worker_waits_for_the_next() -> None:
    """With nobody else it is answered by the next process; what is new is refused meanwhile."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            # Past the second in which the plan's links may still be on their way.
            await asyncio.sleep(1.0)
            stop(running, "shared-0")
            held = [callers.ask(float(value)) for value in range(20)]
            await asyncio.sleep(0.1)
            running.kill("shared-0")
            await until(lambda: not callers.client.is_ready(VARIANT))
            assert callers.ask(0.0).outcome == "not_ready"
            assert {caller.outcome for caller in held} == {""}
            running.start("shared-0")
            await finish(held)
            assert outcomes(held) == {"ok": 20}
            check_answers(held)
            assert callers.client.in_flight == 0
            assert callers.client.open_requests(VARIANT) == 0

    with fleet(workers=1) as running:
        uvloop.run(run(running))


def test_what_waits_goes_to_a_worker_that_was_ready_before_it_was_routed() -> None:
    """Nobody waits for the dead worker's next process once the plan names another one."""

    async def run(running: Fleet) -> None:
        both = running.plan
        (endpoint,) = both.endpoints
        (variant,) = endpoint.variants
        only = msgspec.structs.replace(variant, workers=("shared-0",))
        first = msgspec.structs.replace(
            both, endpoints=(msgspec.structs.replace(endpoint, variants=(only,)),)
        )
        async with client_of(running) as callers:
            callers.client.apply(first)
            await asyncio.sleep(1.0)
            stop(running, "shared-0")
            held = [callers.ask(float(value)) for value in range(8)]
            await asyncio.sleep(0.1)
            running.kill("shared-0")
            await until(lambda: not callers.client.is_ready(VARIANT))
            assert {caller.outcome for caller in held} == {""}
            callers.client.apply(both)
            await finish(held)
            assert outcomes(held) == {"ok": 8}
            check_answers(held)

    with fleet(workers=2) as running:
        uvloop.run(run(running))


def test_who_waits_for_the_next_process_has_a_deadline() -> None:
    """A worker that does not come back costs those who wait for it their time and no more."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            await asyncio.sleep(1.0)
            stop(running, "shared-0")
            held = [callers.ask(1.0, timeout_s=1.5), callers.ask(2.0)]
            await asyncio.sleep(0.1)
            running.kill("shared-0")
            await finish(held[:1])
            assert held[0].outcome == "deadline_exceeded"
            running.plan = running.write((), 2)
            callers.client.apply(running.plan)
            await finish(held)
            assert held[1].outcome == "not_ready"
            assert callers.client.in_flight == 0

    with fleet(workers=1) as running:
        uvloop.run(run(running))
