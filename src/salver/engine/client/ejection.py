"""Which of a variant's workers are left alone for a while, since they do worse than the others.

A worker is ejected when several requests in a row failed there, or when it takes much longer than
the median of the others, and is tried again after a time that grows with each ejection. Both are
judged against its peers: what all of them suffer from is not the fault of one.
"""

import statistics
from collections.abc import Collection
from typing import Final, NamedTuple

from salver.observe.outcomes import Outcome

_MAX_DOUBLINGS: Final = 5


class EjectionPolicy(NamedTuple):
    """When workers are ejected, and for how long.

    ``failures`` in a row, or a mean time in the worker over ``latency_ratio`` times the median of
    its peers' and ``latency_floor_ns`` above it, over a window in which both answered at least
    ``min_requests``; 0 switches either off. A request that missed its deadline counts as a failure
    if it was open for ``stall_ns``. At most ``max_share`` of the workers are ejected at a time.
    """

    failures: int = 5
    latency_ratio: float = 4.0
    latency_floor_ns: int = 5_000_000
    min_requests: int = 20
    window_ns: int = 5_000_000_000
    stall_ns: int = 1_000_000_000
    base_ns: int = 10_000_000_000
    max_share: float = 0.5


class _Health:
    """What is known of one worker."""

    __slots__ = ("ejected_until_ns", "ejections", "failures", "timed", "total_ns")

    def __init__(self) -> None:
        self.failures = 0
        self.timed = 0
        self.total_ns = 0
        self.ejections = 0
        self.ejected_until_ns = 0


class Ejections:
    """The workers of one variant; all times are monotonic nanoseconds."""

    def __init__(self, policy: EjectionPolicy, now_ns: int) -> None:
        self.policy = policy
        self._health: dict[str, _Health] = {}
        self._window_ns = now_ns

    def know(self, workers: Collection[str]) -> None:
        """Judge these workers from now on; others are forgotten."""
        self._health = {worker: self._health.get(worker) or _Health() for worker in workers}

    def ejected(self, now_ns: int) -> frozenset[str]:
        """Return the workers that are left alone now."""
        return frozenset(
            [name for name, one in self._health.items() if one.ejected_until_ns > now_ns]
        )

    def record(self, outcome: Outcome, failed: int, now_ns: int) -> None:
        """Take note of requests that ended at a worker, of which so many failed.

        Those that end while it is left alone were sent before, and say nothing new.
        """
        one = self._health.get(outcome.worker)
        if one is None or one.ejected_until_ns > now_ns:
            return
        one.timed += outcome.timed
        one.total_ns += outcome.total_ns
        one.failures = 0 if outcome.answered else one.failures + failed

    def judge(self, now_ns: int) -> list[tuple[str, str]]:
        """Eject who has done worse than others; returns workers and reasons."""
        policy, found = self.policy, list[tuple[str, str]]()
        in_use = {name: one for name, one in self._health.items() if one.ejected_until_ns <= now_ns}
        if policy.failures:
            for name, one in in_use.items():
                spared = any(
                    peer.failures < policy.failures
                    for other, peer in in_use.items()
                    if other != name
                )
                if one.failures >= policy.failures and spared and self._eject(one, now_ns):
                    found.append((name, "failures"))
        if now_ns - self._window_ns >= policy.window_ns:
            self._window_ns = now_ns
            if policy.latency_ratio:
                slow = [name for name in self._slow(in_use) if self._eject(in_use[name], now_ns)]
                found += [(name, "latency") for name in slow]
            self._begin_window(in_use, {name for name, _ in found})
        return found

    def _slow(self, in_use: dict[str, _Health]) -> list[str]:
        """Return whose requests take much longer than those of its peers, the slowest first."""
        policy = self.policy
        means = {
            name: one.total_ns / one.timed
            for name, one in in_use.items()
            if one.timed >= policy.min_requests
        }
        slow: list[str] = []
        for name, mean_ns in means.items():
            peers = [other for peer, other in means.items() if peer != name]
            if peers:
                usual_ns = statistics.median(peers)
                least_ns = max(policy.latency_ratio * usual_ns, usual_ns + policy.latency_floor_ns)
                if mean_ns > least_ns:
                    slow.append(name)
        return sorted(slow, key=lambda name: -means[name])

    def _eject(self, one: _Health, now_ns: int) -> bool:
        """Leave a worker alone, unless as many are as may be."""
        if one.ejected_until_ns > now_ns:
            return False
        out = sum(health.ejected_until_ns > now_ns for health in self._health.values())
        if out + 1 > self.policy.max_share * len(self._health) or out + 1 >= len(self._health):
            return False
        one.ejected_until_ns = now_ns + self.policy.base_ns * 2 ** min(
            one.ejections, _MAX_DOUBLINGS
        )
        one.ejections += 1
        one.failures = one.timed = one.total_ns = 0
        return True

    def _begin_window(self, in_use: dict[str, _Health], ejected: set[str]) -> None:
        for name, one in in_use.items():
            if one.timed and name not in ejected and not one.failures:
                # A window without a complaint makes up for an ejection.
                one.ejections = max(0, one.ejections - 1)
            one.timed = one.total_ns = 0
