"""A fleet that is asked, gateways that report, and the autoscaler that follows."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from salver.scale.autoscale.autoscaler import Autoscaler, Subject
from salver.scale.autoscale.decider import Decision
from salver.scale.autoscale.history import Usage
from salver.scale.autoscale.policy import Pace, Policy
from salver.scale.autoscale.telemetry import Report

S_NS = 1_000_000_000
NAME, VARIANT = "e", "m:1"
WINDOW_S = 60.0
PACE = Pace()


@dataclass
class Gateway:
    """One gateway's counts; ``reports`` off is one that is not heard of."""

    identity: str
    incarnation: str = "a"
    number: int = 0
    arrival_ns: int = 0
    usage: Usage = field(default_factory=Usage)
    sent: Usage = field(default_factory=Usage)
    reports: bool = True
    connected: bool = True

    def restart(self) -> None:
        """Begin to count from nothing, as a new process does."""
        self.incarnation += "a"
        self.number, self.usage = 0, Usage()


class Simulation:
    """Requests come at ``rate(t)`` a second and run ``run_s`` each, one at a time in a worker.

    What waits is kept in one queue of at most ``most_waiting``. New workers are ready after
    ``start_s``. Time is ``now_s``; the autoscaler looks every two seconds.
    """

    def __init__(
        self,
        policy: Policy,
        rate: Callable[[float], float],
        *,
        run_s: float = 0.1,
        gateways: int = 1,
        start: int = 1,
        start_s: float = 3.0,
    ) -> None:
        self.policy = policy
        self.rate = rate
        self.run_s = run_s
        self.gateways = [Gateway(f"gateway-{index}") for index in range(gateways)]
        self.scaler = Autoscaler(WINDOW_S, stale_s=5.0, gap_s=30.0)
        self.now_s = 1000.0
        self.waiting = 0.0
        self.wanted = start
        self.most_waiting = 1000.0
        self.decisions: list[tuple[float, Decision]] = []
        self._start_s = start_s
        self._starting: list[float] = []
        self.ready = start

    def run(self, seconds: float) -> "Simulation":
        """Go on for so long, in steps of half a second; reports come every second."""
        for step in range(round(seconds * 2)):
            self._serve(0.5)
            self.now_s += 0.5
            if step % 2:
                self._report()
            if step % 4 == 3:
                self.look()
        return self

    def look(self) -> Decision:
        """Have the autoscaler decide, and do what it wants."""
        reports = [
            Report(g.identity, g.incarnation, g.number, g.arrival_ns, {VARIANT: g.sent})
            for g in self.gateways
            if g.connected and g.number
        ]
        subject = Subject(self.policy, self.wanted, self.ready, (VARIANT,))
        decision = self.scaler.look(self.now_ns, reports, {NAME: subject})[NAME]
        self.decisions.append((self.now_s, decision))
        self._scale(decision.wanted)
        return decision

    @property
    def now_ns(self) -> int:
        """The clock."""
        return round(self.now_s * S_NS)

    def counts(self, since_s: float = 0.0) -> list[int]:
        """Return the numbers wanted from a time on, without repetition."""
        found: list[int] = []
        for when, decision in self.decisions:
            if when >= since_s and (not found or found[-1] != decision.wanted):
                found.append(decision.wanted)
        return found

    def _scale(self, wanted: int) -> None:
        more = wanted - self.wanted
        if more > 0:
            self._starting += [self.now_s + self._start_s] * more
        elif more < 0:
            for _ in range(-more):
                if self._starting:
                    self._starting.pop()
                else:
                    self.ready -= 1
        self.wanted = wanted

    def _serve(self, seconds: float) -> None:
        self.ready += sum(when <= self.now_s for when in self._starting)
        self._starting = [when for when in self._starting if when > self.now_s]
        arrived = self.rate(self.now_s) * seconds
        capacity = self.ready * seconds / self.run_s
        served = min(self.waiting + arrived, capacity)
        before, self.waiting = self.waiting, min(self.most_waiting, self.waiting + arrived - served)
        # As in a queue with random arrivals, requests wait although there is room on average.
        load = min(served / capacity, 0.98) if capacity else 0.0
        standing = load**2 / (1 - load) / 2 if math.isfinite(load) else 0.0
        open_s = (max((before + self.waiting) / 2, standing) + served * self.run_s / seconds) * (
            seconds
        )
        share = 1 / len(self.gateways)
        for gateway in self.gateways:
            gateway.usage = gateway.usage.plus(
                Usage(open_s, arrived, served, served * self.run_s), share
            )

    def _report(self) -> None:
        for gateway in self.gateways:
            if gateway.reports and gateway.connected:
                gateway.number += 1
                gateway.arrival_ns = self.now_ns
                gateway.sent = gateway.usage


def concurrency(target: float, most: int = 16, least: int = 1, delay_s: float = 60.0) -> Policy:
    """Return a policy by open requests."""
    return Policy(least, most, "concurrency", target, delay_s, PACE)


def by_rate(target: float, most: int = 16, least: int = 1, delay_s: float = 60.0) -> Policy:
    """Return a policy by requests a second."""
    return Policy(least, most, "rate", target, delay_s, PACE)


def by_queue(target: float, most: int = 16, least: int = 1, delay_s: float = 60.0) -> Policy:
    """Return a policy by seconds of waiting."""
    return Policy(least, most, "queue", target, delay_s, PACE)
