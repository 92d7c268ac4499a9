"""The client and real workers: answers, refusals, deaths."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.core.errors import SalverError
from salver.core.settings import EngineSettings
from salver.core.tensor import Tensor
from salver.engine.client.handler import EngineClient
from salver.observe.meter import Meter
from salver.wire.messages import BatchPolicy
from tests.engine.fleet import (
    QUARANTINE,
    VARIANT,
    Caller,
    Callers,
    Fleet,
    Model,
    client_of,
    finish,
    fleet,
    until,
)
from tests.engine.runtimes import POISON, REFUSED, STRANGE, TALL


def outcomes(callers: list[Caller]) -> Counter[str]:
    """Count how requests ended."""
    return Counter(caller.outcome for caller in callers)


def check_answers(callers: list[Caller]) -> None:
    """Each answer is the function of that caller's own input, and nobody got two."""
    for caller in callers:
        assert caller.finals <= 1
        if caller.outcome == "ok":
            assert caller.answer == 3 * caller.value + 1


def incarnation(client: EngineClient, name: str) -> str:
    """Return which process the link to a worker leads to."""
    connection = client._links[name]._connection
    return "" if connection is None or connection.peer is None else connection.peer.incarnation


def all_alive(client: EngineClient, killed: str) -> bool:
    """Tell whether all three are there, and none is the one that was just killed."""
    return client.ready_workers(VARIANT) == 3 and killed not in [
        incarnation(client, name) for name in client._links
    ]


class Play:
    """Acts out a script: who asked and waits, who is in a hurry, who left."""

    def __init__(self, running: Fleet, callers: Callers) -> None:
        self.patient: list[Caller] = []
        self.hasty: list[Caller] = []
        self.left: list[Caller] = []
        self._fleet = running
        self._callers = callers
        self._value = 0.0
        self._killed = ""

    async def act(self, action: str, count: int) -> None:
        """Do one thing."""
        if action == "ask":
            self.patient += [self._ask(30.0) for _ in range(count)]
        elif action == "ask together":
            self._value += count
            values = [self._value - n for n in range(count)]
            self.patient += self._callers.ask_together(values)
        elif action == "late together":
            values = [self._value + n for n in range(1, count + 1)]
            self._value += count
            self.hasty += self._callers.ask_together(values, timeout_s=0.01)
        elif action == "late":
            self.hasty += [self._ask(0.01) for _ in range(count)]
        elif action == "cancel":
            self._leave(count)
        elif action == "pause":
            await asyncio.sleep(count / 1000)
        elif all_alive(self._callers.client, self._killed):
            self._killed = incarnation(self._callers.client, self._fleet.names[count])
            self._fleet.kill(self._fleet.names[count])

    def _ask(self, limit_s: float) -> Caller:
        self._value += 1.0
        return self._callers.ask(self._value, timeout_s=limit_s)

    def _leave(self, count: int) -> None:
        for caller in [caller for caller in self.patient if not caller.finals][:count]:
            caller.leave()
            self.patient.remove(caller)
            self.left.append(caller)


@pytest.fixture(scope="module")
def three() -> Iterator[Fleet]:
    """Three workers of a slow model, for deaths in the middle of batches."""
    with fleet(Model(runtime="slow"), workers=3) as running:
        yield running


ACTIONS = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 40)),
    st.tuples(st.just("late"), st.integers(1, 10)),
    st.tuples(st.just("ask together"), st.integers(2, 40)),
    st.tuples(st.just("late together"), st.integers(2, 10)),
    st.tuples(st.just("cancel"), st.integers(1, 10)),
    st.tuples(st.just("kill"), st.integers(0, 2)),
    st.tuples(st.just("pause"), st.integers(1, 30)),
)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=st.lists(ACTIONS, min_size=8, max_size=25))
def test_never_mixed_whatever_dies(three: Fleet, script: list[tuple[str, int]]) -> None:
    """Each caller gets one outcome, and every answer is the one to its own question.

    With many callers, cancellations, deadlines and workers killed at any moment.
    """

    async def run() -> None:
        async with client_of(three) as callers:
            nurse = asyncio.create_task(three.keep_alive())
            play = Play(three, callers)
            for action, count in (*script, ("ask", 40), ("kill", 0), ("pause", 10)):
                await play.act(action, count)
            await finish(play.patient + play.hasty)
            assert callers.client.in_flight == 0
            nurse.cancel()
            check_answers(callers.all)
            assert set(outcomes(play.patient)) <= {"ok"}
            assert set(outcomes(play.hasty)) <= {"ok", "deadline_exceeded"}
            assert set(outcomes(play.left)) <= {""}
            assert callers.client.open_requests(VARIANT) == 0
        for name, process in three.processes.items():
            if process.poll() is not None:
                three.start(name)

    uvloop.run(run())


def test_a_suspect_of_a_version_that_leaves_is_told_at_once() -> None:
    """Nobody will start the quarantine that it waits for, so its deadline is not waited for."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            running.kill(QUARANTINE)
            await until(lambda: not callers.client._links[QUARANTINE].connected)
            poison = callers.ask(POISON)
            await until(lambda: bool(callers.client._waiting))
            callers.client.apply(msgspec.structs.replace(running.plan, number=2, endpoints=()))
            await finish([poison])
            assert poison.outcome == "worker_crashed"
            assert "second time" not in str(poison.error)

    with fleet() as running:
        uvloop.run(run(running))


def test_poison_hurts_itself_only() -> None:
    """A request that kills its process twice is answered worker_crashed, all others ok.

    It kills one ordinary worker and the quarantine, once each.
    """

    async def run(running: Fleet) -> None:
        meter = Meter()
        async with client_of(running, meter=meter) as callers:
            nurse = asyncio.create_task(running.keep_alive())
            innocent = [callers.ask(float(value)) for value in range(40)]
            poison = callers.ask(POISON)
            innocent += [callers.ask(float(value)) for value in range(40, 80)]
            innocent += callers.ask_together([float(value) for value in range(80, 120)])
            await finish([*innocent, poison])
            nurse.cancel()
            assert poison.outcome == "worker_crashed"
            assert outcomes(innocent) == {"ok": 120}
            check_answers(innocent)
            retries = [s.value for s in meter.counters() if s.name == "salver_retries_total"]
            assert retries
            assert retries[0] >= 1
            notes = callers.client.notes.newest()
            assert [note.variants for note in notes] == [(VARIANT,)] * 2
            assert notes[0].worker in running.names
            assert notes[1].worker == QUARANTINE
            assert len({note.pid for note in notes} - {0, os.getpid()}) == 2
        await until(lambda: running.processes[QUARANTINE].poll() is not None or _twice(running))
        deaths = {name: count - 1 for name, count in running.starts.items()}
        deaths[QUARANTINE] += running.processes[QUARANTINE].poll() is not None
        shared = sum(
            deaths[name] + (running.processes[name].poll() is not None) for name in running.names
        )
        assert shared == 1
        assert deaths[QUARANTINE] == 1

    def _twice(running: Fleet) -> bool:
        return running.starts[QUARANTINE] == 2

    with fleet(workers=2) as running:
        uvloop.run(run(running))


def test_not_idempotent_is_never_repeated() -> None:
    """What may not run twice fails with worker_crashed when its worker dies."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            marked = [callers.ask(float(value), idempotent=False) for value in range(30)]
            await asyncio.sleep(0.1)
            running.kill(running.names[0])
            running.kill(running.names[1])
            await finish(marked)
            check_answers(marked)
            assert set(outcomes(marked)) == {"worker_crashed"}

    with fleet(Model(runtime="very-slow"), workers=2) as running:
        uvloop.run(run(running))


def test_without_a_worker_refused_at_once() -> None:
    """When the only worker is gone, requests are refused with a time to try again, not kept."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            running.kill(running.names[0])
            await until(lambda: not callers.client.is_ready(VARIANT))
            # The second in which the plan's links may still be on their way must have passed.
            await asyncio.sleep(1.0)
            refused = callers.ask(1.0)
            assert refused.outcome == "not_ready"
            assert refused.error is not None
            assert refused.error.retry_after_s == 1.0
            running.start(running.names[0])
            await until(lambda: callers.client.is_ready(VARIANT))
            again = callers.ask(2.0)
            await finish([again])
            assert again.answer == 7.0

    with fleet() as running:
        uvloop.run(run(running))


@pytest.mark.parametrize(
    ("coalesce", "runner", "here", "there"),
    [
        (True, "auto", True, True),
        (False, "inline", True, True),
        (True, "thread", True, True),
        (False, "thread", False, False),
        (True, "inline", False, True),
        (True, "inline", True, False),
    ],
)
def test_plain_and_clever_agree(coalesce: bool, runner: str, here: bool, there: bool) -> None:
    """The answers are the same whichever way they take.

    One write per message or one per turn, inline or in a thread, cohorts on the client's side
    (``here``) and joint answers on the worker's (``there``) or not.
    """

    async def run(running: Fleet) -> None:
        own = EngineSettings(coalesce=coalesce, cohorts=here)
        async with client_of(running, own) as callers:
            asked = [callers.ask(float(value)) for value in range(200)]
            await finish(asked)
            assert [caller.answer for caller in asked] == [3.0 * n + 1 for n in range(200)]

    environment = {
        "SALVER_ENGINE__COALESCE": str(coalesce).lower(),
        "SALVER_ENGINE__COHORTS": str(there).lower(),
        "SALVER_ENGINE__RUNNER": runner,
    }
    with fleet(environment=environment) as running:
        uvloop.run(run(running))


def test_bad_request_fails_alone() -> None:
    """In a batch of many only the request whose values the model refuses fails."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            good = [callers.ask(float(value)) for value in range(20)]
            refused = callers.ask(REFUSED)
            tall = callers.ask(TALL)
            strange = callers.ask(STRANGE)
            good += [callers.ask(float(value)) for value in range(20, 40)]
            await finish(callers.all)
            check_answers(good)
            assert outcomes(good) == {"ok": 40}
            assert {c.outcome for c in (refused, tall, strange)} == {"model_failed"}

    with fleet() as running:
        uvloop.run(run(running))


def test_what_waits_runs_as_one_batch() -> None:
    """Requests that arrive together share a run, up to the policy's rows; 1 switches it off."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            for variant, most in ((VARIANT, 8), ("single:1", 1)):
                asked = [callers.ask(float(n), variant=variant) for n in range(40)]
                await finish(asked)
                check_answers(asked)
                timings = [caller.responses[0].timing for caller in asked]
                sizes = [timing.batch_size for timing in timings if timing is not None]
                assert len(sizes) == 40
                assert max(sizes) == most

    models = (
        Model(runtime="slow", policy=BatchPolicy(max_batch_size=8)),
        Model("single:1", "affine", policy=BatchPolicy(max_batch_size=1)),
    )
    with fleet(*models) as running:
        uvloop.run(run(running))


def test_shapes_are_kept_apart() -> None:
    """Requests with several rows, of other shapes or with no rows each get their own answer."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            shapes = [(1, 1), (3, 1), (2, 2), (1, 4), (0, 1), (5, 1), (2, 2)] * 5
            arrays = [
                np.arange(rows * width, dtype=np.float64).reshape(rows, width) + index * 100
                for index, (rows, width) in enumerate(shapes)
            ]
            asked = [callers.send([Tensor.from_array("x", array)]) for array in arrays]
            await finish(asked)
            for caller, array in zip(asked, arrays, strict=True):
                assert caller.outcome == "ok"
                (output,) = caller.responses[0].outputs
                assert output.array().tolist() == (3 * array + 1).tolist()

    with fleet() as running:
        uvloop.run(run(running))


def test_queue_is_bounded() -> None:
    """More requests than the policy allows to wait are refused as overloaded, at once."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            first = callers.ask(1.0)
            await asyncio.sleep(0.1)
            asked = [callers.ask(float(n)) for n in range(20)]
            await until(lambda: sum(c.finals for c in asked) == 15)
            assert outcomes(asked) == {"overloaded": 15, "": 5}
            await finish([first, *asked])
            check_answers(asked)
            assert outcomes(asked) == {"overloaded": 15, "ok": 5}

    policy = BatchPolicy(max_batch_size=1, max_queue=5)
    with fleet(Model(runtime="very-slow", policy=policy)) as running:
        uvloop.run(run(running))


def test_client_is_bounded() -> None:
    """A gateway opens only so many requests at one variant."""

    async def run(running: Fleet) -> None:
        async with client_of(running, EngineSettings(max_in_flight=10)) as callers:
            asked = [callers.ask(float(n)) for n in range(25)]
            assert outcomes(asked) == {"overloaded": 15, "": 10}
            await finish(asked)
            again = callers.ask(1.0)
            await finish([again])
            assert again.outcome == "ok"

    with fleet(Model(runtime="slow")) as running:
        uvloop.run(run(running))


def test_late_work_is_not_run() -> None:
    """A request whose deadline passes in the queue never reaches the model.

    So a poison that is late, or that nobody waits for, kills nobody.
    """

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            first = callers.ask(1.0)
            await asyncio.sleep(0.1)
            late = callers.ask(POISON, timeout_s=0.05)
            left = callers.ask(POISON)
            assert left.context is not None
            left.context.cancel()
            await finish([late])
            last = callers.ask(2.0)
            await finish([first, last])
            assert late.outcome == "deadline_exceeded"
            assert left.outcome == ""
            assert last.outcome == "ok"
            assert running.processes[running.names[0]].poll() is None

    with fleet(Model(runtime="very-slow", policy=BatchPolicy(max_batch_size=1))) as running:
        uvloop.run(run(running))


def test_an_end_may_end_others() -> None:
    """A failure whose handling cancels another late request ends that one once, too."""

    class Ender(Caller):
        other: Caller

        def fail(self, error: SalverError) -> None:
            """Take the failure and give up the other request."""
            super().fail(error)
            assert self.other.context is not None
            self.other.context.cancel()

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            ender = Ender()
            ender.other = Caller()
            tensor = Tensor.from_array("x", np.array([[1.0]]))
            for caller in (ender, ender.other):
                callers.send([tensor], timeout_s=0.02, caller=caller)
            await finish([ender])
            await asyncio.sleep(0.1)
            assert ender.outcome == "deadline_exceeded"
            assert ender.other.finals == 0
            assert callers.client.open_requests(VARIANT) == 0

    with fleet(Model(runtime="very-slow")) as running:
        uvloop.run(run(running))


def test_a_long_model_does_not_block_another() -> None:
    """While one model of a worker computes, another one of it answers."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            long = callers.ask(1.0, variant="long:1")
            await asyncio.sleep(0.05)
            quick = [callers.ask(float(n)) for n in range(10)]
            await finish(quick)
            assert not long.finals
            await finish([long])
            assert long.answer == 4.0

    with fleet(Model(), Model("long:1", "very-slow")) as running:
        uvloop.run(run(running))


def test_failed_load_is_told_and_hurts_nobody() -> None:
    """A version that does not load refuses its requests; the worker's other versions answer."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            good = callers.ask(1.0)
            await finish([good])
            assert good.outcome == "ok"
            bad = callers.ask(1.0, variant="bad:1")
            await finish([bad])
            assert bad.outcome == "not_ready"

    with fleet(Model(), Model("bad:1", content=b"fail")) as running:
        uvloop.run(run(running))


def test_sigterm_finishes_what_was_accepted() -> None:
    """A worker that is told to stop answers what it holds; new requests go to the other one."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            # Not repeatable: only the worker that holds them can answer them.
            held = [callers.ask(float(n), idempotent=False) for n in range(8)]
            await asyncio.sleep(0.1)
            os.kill(running.processes[running.names[0]].pid, signal.SIGTERM)
            await asyncio.sleep(0.05)
            moved = [callers.ask(float(n)) for n in range(8, 16)]
            await finish(held + moved)
            check_answers(held + moved)
            assert outcomes(held + moved) == {"ok": 16}
            await until(lambda: running.processes[running.names[0]].poll() is not None)
            assert running.processes[running.names[0]].returncode == 0

    with fleet(Model(runtime="very-slow"), workers=2) as running:
        uvloop.run(run(running))


def test_a_plan_moves_requests_without_a_failure() -> None:
    """Requests during a change from one version to the next are all answered."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            asked = [callers.ask(float(n)) for n in range(20)]
            both = running.write((*running.models, Model("affine:2", "slow")), 2)
            # The worker follows the file only at start; a second worker stands for the pushed plan.
            running.kill(running.names[1])
            running.start(running.names[1])
            callers.client.apply(both)
            asked += [callers.ask(float(n)) for n in range(20)]
            await until(lambda: callers.client.is_ready("affine:2"))
            asked += [callers.ask(float(n), variant="affine:2") for n in range(20)]
            await finish(asked)
            check_answers(asked)
            assert outcomes(asked) == {"ok": 60}

    with fleet(Model(runtime="slow"), workers=2) as running:
        uvloop.run(run(running))


def test_unsendable_requests_are_refused_alone() -> None:
    """Numbers and parameters that cannot travel are the caller's fault and close no link."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            other = callers.ask(1.0)
            huge = callers.send([Tensor("x", "FP64", (0, 2**70), b"")])
            await finish([other, huge])
            assert huge.outcome == "invalid_request"
            assert other.outcome == "ok"

    with fleet(Model(runtime="slow")) as running:
        uvloop.run(run(running))
