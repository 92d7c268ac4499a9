"""Whole runs against a real server: how they end."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from salver.bench import schedule, session
from salver.bench.figures import Arrivals, Format, Limit, Report, Step
from salver.bench.ramp import RampSettings
from salver.bench.session import Job, Session
from salver.bench.summary import Objective
from salver.bench.target import Target
from salver.bench.workload import Body, Workload
from tests.load.server import OK, Server

_LONG_S = 60.0
WORKLOAD = Workload((Body({"content-type": "application/json"}, b"{}"),), "a test", Format.JSON)


class Watcher:
    """Keeps the rates of the steps that began."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def begins(self, rate_per_s: float, requests: int) -> None:
        """Keep the rate."""
        self.rates.append(rate_per_s)

    def goes_on(self, due: int, ended: int) -> None:
        """Keep nothing."""

    def ends(self, step: Step) -> None:
        """Keep nothing."""


class Accepting(Server):
    """Tells of every connection as it is accepted."""

    def __init__(
        self, answer: Callable[[int], Awaitable[bytes | None]], told: Callable[[], None]
    ) -> None:
        super().__init__(answer)
        self._told = told

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._told()
        super()._accept(reader, writer)


async def always(_number: int) -> bytes:
    """Answer every request at once."""
    return OK


def job(target: Target, ramp: RampSettings | None, duration_s: float) -> Job:
    """Return a run that every answer meets the objective of, however late it is."""
    return Job(
        "e",
        f"http://{target.authority}",
        target,
        WORKLOAD,
        Objective(_LONG_S, 0.99, 0.5),
        rate_per_s=100.0,
        duration_s=duration_s,
        warmup_s=0.1,
        arrivals=Arrivals.CONSTANT,
        timeout_s=_LONG_S,
        ramp=ramp,
    )


@pytest.mark.parametrize(
    ("start_per_s", "rates"), [(100.0, [100.0, 200.0, 400.0]), (1000.0, [400.0])]
)
def test_a_ramp_ends_where_too_many_times_would_be_kept(
    start_per_s: float, rates: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured below is kept, and the bound counts as the highest rate allowed."""
    for module in (schedule, session):
        monkeypatch.setattr(module, "MAX_REQUESTS", 200)
    watcher = Watcher()

    async def body() -> Report:
        async with Server(always) as server, asyncio.timeout(_LONG_S):
            asked = job(server.target, RampSettings(start_per_s, 20_000.0), 0.4)
            return await Session(asked, watcher).run()

    report = asyncio.run(body())
    assert watcher.rates == rates
    assert [step.rates.target for step in report.steps] == rates
    assert report.capacity is not None
    assert (report.capacity.rate_per_s, report.capacity.limit) == (400.0, Limit.MAX_RATE)


@pytest.mark.parametrize("ramp", [None, RampSettings(100.0, 20_000.0)])
def test_an_interruption_while_connections_are_opened(ramp: RampSettings | None) -> None:
    """The run ends with nothing measured instead of going on for its whole duration."""
    sessions: list[Session] = []
    began: list[bool] = []

    def interrupt() -> None:
        began.append(sessions[0]._loop is not None)
        sessions[0].interrupt()

    async def body() -> Report:
        async with Accepting(always, interrupt) as server, asyncio.timeout(_LONG_S):
            sessions.append(Session(job(server.target, ramp, 10 * _LONG_S), Watcher()))
            return await sessions[0].run()

    report = asyncio.run(body())
    assert began[0] is False
    assert report.interrupted
    assert report.steps == []
    assert (ramp is None) == (report.capacity is None)
    assert report.capacity is None or report.capacity.limit is Limit.INTERRUPTED
