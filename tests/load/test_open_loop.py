"""The open loop against real sockets: what is due is sent, and everything is counted."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from salver.bench.figures import Arrivals, Step
from salver.bench.generator import OpenLoop, Run
from salver.bench.pool import Pool
from salver.bench.record import NO_CONNECTION, OK, integers
from salver.bench.schedule import arrival_times
from salver.bench.summary import Objective, summarise
from salver.bench.target import Target
from salver.core.clock import SystemClock
from salver.core.errors import NotReady
from tests import certificates
from tests.load import server as answers
from tests.load.server import Server, refusal

CLOCK = SystemClock()
OBJECTIVE = Objective(60.0, 0.99, 0.99)
REQUEST = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1"
_LONG_S = 60.0


@dataclass
class Load:
    """One run: how many requests at which rate over how many connections."""

    count: int
    rate_per_s: float = 2000.0
    connections: int = 500
    timeout_s: float = _LONG_S
    precise: bool = True
    requests: tuple[bytes, ...] = (REQUEST,)
    late_limit_s: float = _LONG_S
    loops: list[OpenLoop] = field(default_factory=list)

    async def run(self, target: Target, progress: Callable[[int, int], None] | None = None) -> Run:
        """Send it; an answer that never comes ends the test."""
        pool = Pool(target, self.connections, self.timeout_s, CLOCK)
        loop = OpenLoop(pool, CLOCK, precise=self.precise, late_limit_s=self.late_limit_s)
        self.loops.append(loop)
        times = arrival_times(Arrivals.CONSTANT, self.rate_per_s, self.count / self.rate_per_s, 0)[
            : self.count
        ]
        try:
            async with asyncio.timeout(_LONG_S):
                return await loop.run(times, self.requests, progress=progress)
        finally:
            await pool.close()


def names(run: Run) -> Counter[str]:
    """Return how many requests ended how."""
    return Counter(run.record.names[outcome] for outcome in run.record.outcomes)


def summary(run: Run, load: Load) -> Step:
    """Return a run's figures."""
    return summarise(run, load.rate_per_s, load.count / load.rate_per_s, OBJECTIVE)


async def always(_number: int) -> bytes:
    """Answer every request at once."""
    return answers.OK


def test_a_stall_is_charged_to_every_request_that_was_due_in_it() -> None:
    """No coordinated omission: a server that stalls gets more requests, and all show the stall.

    The server holds every answer from the 20th request on until 80 more have come, which a
    generator that waits for answers would never send.
    """
    load = Load(150)

    async def body() -> tuple[Run, int]:
        released = asyncio.Event()
        released_ns = 0

        async def stalling(number: int) -> bytes:
            nonlocal released_ns
            if number >= 100 and not released.is_set():
                released_ns = time.monotonic_ns()
                released.set()
            if number >= 20:
                await released.wait()
            return answers.OK

        async with Server(stalling) as server:
            return await load.run(server.target), released_ns

    run, released_ns = asyncio.run(body())
    assert names(run) == {"ok": 150}
    due, sent, done = (
        integers(column) for column in (run.record.due_ns, run.record.sent_ns, run.record.done_ns)
    )
    stalled = (sent < released_ns) & (done >= released_ns)
    assert stalled.sum() >= 80
    waited_us = np.sort((released_ns - due[stalled]) / 1e3)
    latency = summary(run, load).latency_us
    assert latency is not None
    # More than half of all requests waited at least as long as the last that came in the stall.
    assert latency.p50 >= waited_us[0]
    assert latency.p99 >= waited_us[-3]
    assert latency.max >= waited_us[-1]


def test_requests_beyond_the_bound_are_counted_and_never_sent() -> None:
    """Four connections take four requests; those that find none free are neither sent nor lost."""
    load = Load(50, connections=4)

    async def body() -> tuple[Run, Server]:
        released = asyncio.Event()

        async def holding(_number: int) -> bytes:
            await released.wait()
            return answers.OK

        def progress(due: int, _ended: int) -> None:
            if due == 50:
                released.set()

        async with Server(holding) as server:
            return await load.run(server.target, progress), server

    run, server = asyncio.run(body())
    assert names(run) == {"ok": 4, "not_sent_no_connection": 46}
    assert (server.arrived, server.most_open) == (4, 4)
    assert [index for index, outcome in enumerate(run.record.outcomes) if outcome == OK] == [
        0, 1, 2, 3,
    ]  # fmt: skip
    step = summary(run, load)
    assert (step.requests.due, step.requests.sent, step.requests.not_sent) == (50, 4, 46)
    assert step.objective_share == 4 / 50
    assert not step.met


def test_every_end_is_counted_by_its_name() -> None:
    """Refusals count by status and code, broken connections as such; only 200 is goodput."""
    cycle: tuple[bytes | None, ...] = (
        answers.OK,
        refusal(503, b'{"error": "full", "code": "overloaded"}'),
        refusal(429, b"no JSON"),
        b"HTTP/1.1 nonsense\r\n\r\n",
        None,
    )

    async def turning(number: int) -> bytes | None:
        return cycle[number % len(cycle)]

    load = Load(100)

    async def body() -> Run:
        async with Server(turning) as server:
            return await load.run(server.target)

    run = asyncio.run(body())
    expected = {
        "ok": 20, "503 overloaded": 20, "429": 20, "bad_answer": 20, "connection_lost": 20,
    }  # fmt: skip
    assert names(run) == expected
    step = summary(run, load)
    assert step.errors == {name: 20 for name in expected if name != "ok"}
    assert (step.requests.ok, step.requests.good, step.requests.failed) == (20, 20, 80)
    assert step.rates.good == pytest.approx(0.2 * load.rate_per_s)
    assert step.refusal_us is not None
    assert not step.met


def test_codes_are_kept_to_plain_letters_and_a_bounded_number() -> None:
    """What a server calls its errors neither fills the memory nor reaches a terminal as it is."""

    async def inventive(number: int) -> bytes:
        return refusal(500, b'{"code": "\\u001b[31mred%d"}' % number)

    load = Load(200)

    async def body() -> Run:
        async with Server(inventive) as server:
            return await load.run(server.target)

    run = asyncio.run(body())
    assert len(run.record.names) <= 64
    assert all(name.isprintable() and "[" not in name for name in run.record.names)
    assert sum(names(run).values()) == 200


def test_an_answer_that_never_comes_is_a_timeout() -> None:
    """The run ends although the server is silent, and says so."""

    async def silent(_number: int) -> bytes:
        await asyncio.sleep(_LONG_S)
        return b""

    load = Load(20, timeout_s=0.2)

    async def body() -> Run:
        async with Server(silent) as server:
            return await load.run(server.target)

    run = asyncio.run(body())
    assert names(run) == {"timeout": 20}
    assert summary(run, load).latency_us is None


def test_where_nothing_listens_every_request_fails() -> None:
    """Connections that cannot be opened are failures, and opening some beforehand says so."""

    async def body() -> Run:
        async with Server(always) as server:
            target = server.target
        with pytest.raises(NotReady):
            await Pool(target, 4, 1.0, CLOCK).open(2)
        return await load.run(target)

    load = Load(20)
    assert names(asyncio.run(body())) == {"connect_failed": 20}


@pytest.mark.parametrize("precise", [True, False])
def test_both_timers_send_the_same(precise: bool) -> None:
    """With the kernel's timer and with the loop's, all is sent, and nothing before it is due."""
    requests = tuple(REQUEST[:-1] + digit for digit in (b"1", b"2", b"3"))
    load = Load(200, precise=precise, requests=requests)

    async def body() -> tuple[Run, list[bytes]]:
        async with Server(always) as server:
            return await load.run(server.target), server.bodies

    run, bodies = asyncio.run(body())
    assert names(run) == {"ok": 200}
    assert (integers(run.record.sent_ns) >= integers(run.record.due_ns)).all()
    order = np.random.default_rng(0).integers(0, 3, 200)
    assert Counter(bodies) == Counter(str(number + 1).encode() for number in order)


def test_connections_are_kept_alive_and_closed_when_told() -> None:
    """One connection is enough for answers that come at once; ``connection: close`` ends it."""
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

    async def run_with(answer: bytes) -> tuple[Run, int]:
        async def same(_number: int) -> bytes | None:
            return answer

        load = Load(20, rate_per_s=50)
        async with Server(same) as server:
            return await load.run(server.target), server.most_open

    run, most_open = asyncio.run(run_with(closing))
    assert names(run) == {"ok": 20}
    run, most_open = asyncio.run(run_with(answers.OK))
    assert names(run) == {"ok": 20}
    assert most_open < 20


def test_tls(tmp_path: Path) -> None:
    """A server that speaks TLS is asked over it, and its certificate is checked."""
    authority = certificates.Authority(tmp_path)
    issued = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    load = Load(30)

    async def run_with(trusted: ssl.SSLContext) -> Run:
        async with Server(always, context) as server:
            return await load.run(replace(server.target, tls=trusted))

    run = asyncio.run(run_with(ssl.create_default_context(cafile=authority.file)))
    assert names(run) == {"ok": 30}
    run = asyncio.run(run_with(ssl.create_default_context()))
    assert names(run) == {"connect_failed": 30}


def test_a_stopped_run_tells_what_it_has() -> None:
    """After ``stop`` nothing more is sent, and what is in flight is in no figure."""
    load = Load(1000, rate_per_s=500)

    async def body() -> tuple[Run, Server]:
        async def nine(number: int) -> bytes:
            if number > 9:
                await asyncio.sleep(_LONG_S)
            return answers.OK

        def progress(_due: int, ended: int) -> None:
            if ended == 9:
                load.loops[0].stop()

        async with Server(nine) as server:
            return await load.run(server.target, progress), server

    run, server = asyncio.run(body())
    assert 9 <= run.count < 1000
    step = summary(run, load)
    assert (step.requests.due, step.requests.ok) == (9, 9)
    assert server.arrived <= run.count


def test_what_the_generator_cannot_send_in_time_is_not_sent() -> None:
    """A generator that is held up counts what it missed, and says that it was the bottleneck."""
    load = Load(400, rate_per_s=1000, late_limit_s=0.05)

    async def body() -> Run:
        async def blocking(number: int) -> bytes:
            if number == 20:
                time.sleep(0.3)  # noqa: ASYNC251 - the loop of the generator is to stand still
            return answers.OK

        async with Server(blocking) as server:
            return await load.run(server.target)

    run = asyncio.run(body())
    ended = names(run)
    assert ended["not_sent_generator_late"] > 0
    assert sum(ended.values()) == 400
    step = summary(run, load)
    assert step.generator.bottleneck
    assert "not be sent within" in step.generator.reason
    assert step.requests.not_sent == ended["not_sent_generator_late"]
    assert NO_CONNECTION not in run.record.outcomes
