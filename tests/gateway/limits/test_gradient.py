"""The learned limit, on simulated servers with a clock of their own."""

import heapq
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from salver.gateway.limits.gradient import Gradient2, GradientPolicy

MS = 1_000_000
SECOND = 1000 * MS
DRAIN_NS = 100 * MS

RunTime = Callable[[int, float], float]


class Second(NamedTuple):
    """What one second of a simulation was like."""

    limit: int
    answered: int
    refused: int
    mean_ms: float


class Simulation:
    """Requests come at random, wait, and run in batches on some servers.

    ``run_ms`` gives how long a batch of so many takes at a moment (seconds).
    """

    def __init__(self, run_ms: RunTime, *, servers: int = 1, batch: int = 1) -> None:
        self.limiter = Gradient2(GradientPolicy(), 0)
        self.seconds: list[Second] = []
        self._run_ms = run_ms
        self._batch = batch
        self._free = servers
        self._rng = random.Random(1)
        self._waiting: list[int] = []
        self._running: list[tuple[int, list[int], int]] = []
        self._now_ns = self._open = self._peak = 0
        self._answered: list[tuple[int, int]] = []
        self._refused = 0

    def play(self, seconds: int, rate: Callable[[float], float]) -> list[Second]:
        """Let time pass; ``rate`` is requests a second at a moment."""
        for number in range(seconds):
            limit, self._refused, total_ns, count = self.limiter.limit, 0, 0, 0
            for tenth in range(10):
                end_ns = number * SECOND + (tenth + 1) * DRAIN_NS
                self._until(end_ns, rate)
                count += len(self._answered)
                total_ns += sum(kept_ns for kept_ns, _ in self._answered)
                self._drain()
            mean_ms = total_ns / count / MS if count else 0.0
            self.seconds.append(Second(limit, count, self._refused, mean_ms))
        return self.seconds

    def _drain(self) -> None:
        answered, self._answered = self._answered, []
        if answered:
            total_ns = sum(kept_ns for kept_ns, _ in answered)
            run_ns = sum(ran_ns for _, ran_ns in answered)
            if self.limiter.record(len(answered), total_ns, run_ns, self._peak, self._now_ns):
                self._peak = self._open

    def _until(self, end_ns: int, rate: Callable[[float], float]) -> None:
        next_ns = self._now_ns + self._pause_ns(rate)
        while True:
            ended_ns = self._running[0][0] if self._running else end_ns + 1
            self._now_ns = min(next_ns, ended_ns, end_ns)
            if ended_ns == self._now_ns:
                _, batch, begun_ns = heapq.heappop(self._running)
                self._free += 1
                self._open -= len(batch)
                now_ns = self._now_ns
                self._answered += [(now_ns - came_ns, now_ns - begun_ns) for came_ns in batch]
            elif next_ns == self._now_ns:
                next_ns += self._pause_ns(rate)
                if self._open < self.limiter.limit:
                    self._open += 1
                    self._peak = max(self._peak, self._open)
                    self._waiting.append(self._now_ns)
                else:
                    self._refused += 1
            else:
                return
            self._begin()

    def _pause_ns(self, rate: Callable[[float], float]) -> int:
        return 1 + int(self._rng.expovariate(rate(self._now_ns / SECOND)) * SECOND)

    def _begin(self) -> None:
        while self._free and self._waiting:
            batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
            self._free -= 1
            takes_ns = int(self._run_ms(len(batch), self._now_ns / SECOND) * MS)
            heapq.heappush(self._running, (self._now_ns + takes_ns, batch, self._now_ns))


@pytest.mark.parametrize("times", [2, 10])
def test_one_request_at_a_time(times: int) -> None:
    """A model of 30 ms, one at a time: at 2 and 10 times its capacity it stays busy.

    The limit is found near the capacity, and those let in wait for a few runs only, from the
    first seconds on.
    """
    seconds = Simulation(lambda _, __: 30.0).play(30, lambda _: 33.3 * times)
    assert max(second.mean_ms for second in seconds[2:]) < 8 * 30
    for second in seconds[15:]:
        assert second.answered >= 32
        assert 4 <= second.limit <= 10
        assert second.mean_ms < 8 * 30


def test_batches() -> None:
    """A model whose batches of up to 64 pay keeps its throughput at six times the capacity."""
    simulation = Simulation(lambda size, _: 4 + size / 4, batch=64)
    seconds = simulation.play(15, lambda _: 20_000)
    for second in seconds[5:]:
        assert second.answered >= 0.97 * 3200
        assert 100 <= second.limit <= 300
        assert second.mean_ms < 4 * 20


def test_several_servers() -> None:
    """Eight replicas of 10 ms are all kept busy."""
    seconds = Simulation(lambda _, __: 10.0, servers=8).play(20, lambda _: 3000)
    for second in seconds[10:]:
        assert second.answered >= 0.97 * 800
        assert 16 <= second.limit <= 48


def test_it_follows_a_fall_and_recovers() -> None:
    """When runs take four times as long for a while, it adapts, and has full goodput soon after."""
    simulation = Simulation(lambda _, at: 40.0 if 10 <= at < 20 else 10.0, servers=4)
    seconds = simulation.play(30, lambda _: 800)
    assert min(second.answered for second in seconds[5:10]) >= 0.95 * 400
    assert min(second.answered for second in seconds[13:20]) >= 0.95 * 100
    assert min(second.answered for second in seconds[25:]) >= 0.95 * 400
    assert max(second.mean_ms for second in seconds[25:]) < 8 * 10


def test_an_overload_that_lasts_is_not_learned_as_normal() -> None:
    """After five minutes of overload the limit is where it was after half a minute."""
    seconds = Simulation(lambda _, __: 30.0).play(300, lambda _: 330)
    early = sum(second.limit for second in seconds[20:30]) / 10
    late = sum(second.limit for second in seconds[290:]) / 10
    assert late <= 1.5 * early


def test_below_capacity_nobody_is_refused() -> None:
    """At three quarters of the capacity all are let in, and the limit does not fall to nothing."""
    seconds = Simulation(lambda _, __: 10.0, servers=4).play(30, lambda _: 300)
    assert sum(second.refused for second in seconds[2:]) == 0


def test_times_below_the_floor_are_never_too_long() -> None:
    """Where everything takes under 5 ms the limit grows as far as it may."""
    limiter, now_ns = Gradient2(GradientPolicy(most=500), 0), 0
    for step in range(200):
        now_ns += DRAIN_NS
        kept_ns = 4 * MS if step % 2 else MS // 10
        limiter.record(100, 100 * kept_ns, 100 * MS // 20, limiter.limit, now_ns)
    assert limiter.limit == 500


def test_with_little_to_do_the_limit_stays() -> None:
    """While less than half of what is allowed is open nothing can be learned about the limit."""
    limiter, now_ns = Gradient2(GradientPolicy(), 0), 0
    before = limiter.limit
    for _ in range(100):
        now_ns += DRAIN_NS
        limiter.record(100, 100 * 50 * MS, 100 * MS, before // 2 - 1, now_ns)
    assert limiter.limit == before


def test_it_stays_within_its_bounds() -> None:
    """However long requests take, some are let through."""
    limiter, now_ns = Gradient2(GradientPolicy(least=3), 0), 0
    for step in range(500):
        now_ns += SECOND
        limiter.record(1, (step + 1) * SECOND, MS, limiter.limit, now_ns)
        assert 3 <= limiter.limit <= 4096
    assert limiter.limit <= 4
