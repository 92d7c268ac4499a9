"""How many workers what is asked takes, by each measure."""

import math

from salver.scale.autoscale.history import Usage
from salver.scale.autoscale.policy import CONCURRENCY, QUEUE, RATE, Policy

SLACK = 0.9
"""Fewer workers must be enough at this part of their target, so that noise at a bound does nothing.
"""
_ROUNDING = 1e-9
_MOST_RATIO = 2.0
_LITTLE = 0.5
_MS = 1000


def value(policy: Policy, mean: Usage, ready: int) -> float:
    """Return what the policy looks at: open requests, requests a second, or seconds of waiting.

    How long requests wait is, by Little's law, how many do so over how many come in a second. If
    none come and more are open than there are workers, nothing moves: they wait for ever.
    """
    if policy.metric == CONCURRENCY:
        return mean.open_s
    if policy.metric == RATE:
        return mean.asked
    waiting = max(0.0, mean.open_s - mean.run_s)
    if mean.asked > 0:
        return waiting / mean.asked
    return math.inf if mean.open_s > ready else 0.0


def needed(policy: Policy, mean: Usage, ready: int) -> int:
    """Return how many workers are enough for what was asked.

    The time that requests wait says only whether there are too few of the ``ready`` workers, and
    roughly how many: at most twice as many are asked for.
    """
    ready = max(1, ready)
    seen = value(policy, mean, ready)
    if policy.metric == QUEUE:
        ratio = min(_MOST_RATIO, seen / policy.target)
        return math.ceil(ready * ratio - _ROUNDING) if ratio > 1 else ready
    return math.ceil(seen / policy.target - _ROUNDING)


def enough(policy: Policy, mean: Usage, ready: int) -> int:
    """Return to how many workers one may go down.

    By the time that requests wait, that is one fewer while they wait for less than half of what
    they may, and half as many when nothing was asked.
    """
    if policy.metric != QUEUE:
        return needed(policy, Usage(*(part / SLACK for part in mean)), ready)
    if mean.open_s <= 0 and mean.asked <= 0:
        return ready // 2
    return ready - 1 if value(policy, mean, ready) < _LITTLE * policy.target else ready


def describe(policy: Policy, mean: Usage, ready: int, window_s: float) -> str:
    """Say what was seen, and what is aimed at."""
    seen, target = value(policy, mean, ready), policy.target
    if policy.metric == QUEUE:
        wait = "get no answer" if math.isinf(seen) else f"wait {seen * _MS:.3g} ms"
        return f"requests {wait} over {window_s:g} s, {target * _MS:g} ms are allowed"
    what = "open requests" if policy.metric == CONCURRENCY else "requests/s"
    return f"{seen:.3g} {what} over {window_s:g} s, {target:.3g} a worker"
