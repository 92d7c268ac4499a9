"""Made-up callers: few send most, each has its own habits, and the world changes meanwhile.

Latency is log-normal with a Pareto tail. With ``alike`` all callers are the same, and what is
left of the dependence between requests are bursts, an incident and the time of day.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from salver.rollout.tally import SEGMENTS, Floats

Flags = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]

CALLERS = 3_000
ZIPF = 1.1
ERROR_RATE = 0.001
CLASS_SHARE = 0.3
REFUSAL_RATE = 0.002
WARMUP_REQUESTS = 2_000


class Traffic(NamedTuple):
    """Requests in the order of their arrival.

    ``luck`` decides by itself whether a request of given failure probability fails: below it, and
    ``sense`` whether it is refused as its caller's mistake.
    """

    segment: Whole
    failure: Floats
    luck: Floats
    latency_s: Floats
    share: Floats
    taste: Floats
    mistake: Floats
    sense: Floats


class Harm(NamedTuple):
    """What the canary does worse."""

    error_rate: float = 0.0
    latency: float = 0.0
    class_share: float = 0.0
    refusal_rate: float = 0.0


def latencies(rng: np.random.Generator, count: int) -> Floats:
    """Return latencies in seconds, heavy-tailed."""
    body = 0.01 * rng.lognormal(0.0, 0.6, count)
    tail = rng.random(count) < 0.03
    body[tail] *= 1.0 + rng.pareto(1.8, int(tail.sum()))
    return np.asarray(body)


def requests(rng: np.random.Generator, count: int, *, alike: bool = False) -> Traffic:
    """Return traffic of one day: Zipf-distributed callers that stick, bursts, an incident."""
    weight = 1.0 / np.arange(1, CALLERS + 1) ** ZIPF
    who = rng.choice(CALLERS, count, p=weight / weight.sum())
    hot = np.zeros(count, dtype=bool)
    for start in np.flatnonzero(rng.random(count) < 0.004):
        length = rng.geometric(1 / 25)
        who[start : start + length] = who[start]
        hot[start : start + length] = True
    if alike:
        failing = np.full(CALLERS, ERROR_RATE)
        slow, taste = np.ones(CALLERS), np.full(CALLERS, CLASS_SHARE)
        clumsy = np.full(CALLERS, REFUSAL_RATE)
    else:
        failing = np.where(rng.random(CALLERS) < 0.01, 0.1, ERROR_RATE / 2)
        failing *= rng.lognormal(0.0, 0.5, CALLERS)
        slow = rng.lognormal(0.0, 0.35, CALLERS)
        taste = rng.beta(10 * CLASS_SHARE, 10 * (1 - CLASS_SHARE), CALLERS)
        clumsy = np.where(np.arange(CALLERS) % 50 == 0, 0.2, REFUSAL_RATE / 2)
    hour = np.sin(2 * np.pi * np.arange(count) / count)
    incident = np.zeros(count)
    began = rng.integers(0, count - 100)
    incident[began : began + 100] = 0.2
    return Traffic(
        segment=rng.integers(0, SEGMENTS, CALLERS)[who],
        failure=np.clip(failing[who] * (1 + 0.7 * hour) + incident, 0, 1),
        luck=rng.random(count),
        latency_s=slow[who] * np.exp(0.3 * hour) * (1 + hot) * latencies(rng, count),
        share=np.clip(taste[who] + 0.08 * hour, 0, 1),
        taste=rng.random(count),
        mistake=clumsy[who],
        sense=rng.random(count),
    )
