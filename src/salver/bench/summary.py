"""From what happened to every request to the figures of a step."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salver.bench.figures import Counts, Latency, Own, Rates, Step
from salver.bench.generator import LEAST_LATE_LIMIT_S, Run
from salver.bench.record import LATE, NO_CONNECTION, OK, OTHER, PENDING, Integers, integers

_NS_PER_S = 1e9
_NS_PER_US = 1e3
_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
_LEAST_LAG_LIMIT_US = 1000.0
_LAG_PART_OF_SLO = 0.1
_CURVE_POINTS = 80


@dataclass(frozen=True, slots=True)
class Objective:
    """What counts as good: an answer within ``slo_s``; and how much of what was due must be.

    ``quantile`` and ``goodput`` are shares (0.99).
    """

    slo_s: float
    quantile: float
    goodput: float


def late_limit_s(objective: Objective) -> float:
    """Return how late a request may still be sent: as long as it could be good, at least 1 s."""
    return max(LEAST_LATE_LIMIT_S, objective.slo_s)


@dataclass(frozen=True, slots=True)
class _Selected:
    """The measured requests as arrays, without those that an interruption left in flight."""

    due_ns: Integers
    sent_ns: Integers
    done_ns: Integers
    outcomes: Integers


def summarise(run: Run, rate_per_s: float, duration_s: float, objective: Objective) -> Step:
    """Return the figures of what was due after the warm-up.

    ``duration_s`` is how long the measured part was meant to last; of an interrupted run it is
    as long as it went.
    """
    chosen = _select(run)
    unsent = np.isin(chosen.outcomes, (NO_CONNECTION, LATE))
    right = chosen.outcomes == OK
    latency_us = (chosen.done_ns - chosen.due_ns)[right] / _NS_PER_US
    due, sent = len(chosen.outcomes), int((~unsent).sum())
    good = int((latency_us <= objective.slo_s * 1e6).sum())
    counts = Counts(due, sent, due - sent, len(latency_us), good, due - len(latency_us))
    refused = ~right & (chosen.outcomes >= OTHER)
    own = _own(run, chosen, objective)
    share = good / due if due else 0.0
    latency = percentiles(latency_us)
    unmet = _unmet(latency_us, share, objective)
    return Step(
        Rates(rate_per_s, *(value / duration_s for value in (due, sent, counts.ok, good))),
        duration_s,
        counts,
        _errors(run, chosen),
        latency,
        percentiles((chosen.done_ns - chosen.sent_ns)[right] / _NS_PER_US),
        percentiles((chosen.done_ns - chosen.due_ns)[refused] / _NS_PER_US),
        share,
        not unmet,
        unmet,
        own,
        run.record.bytes_sent,
        run.record.bytes_received,
        curve(latency_us),
    )


def quantile(sorted_values: npt.NDArray[np.float64], share: float) -> float:
    """Return the smallest value that at least this share does not exceed; none must be missing."""
    # The subtracted trifle keeps 0.9 of 10 values at the ninth.
    rank = math.ceil(share * len(sorted_values) - 1e-9)
    return float(sorted_values[max(rank, 1) - 1])


def percentiles(values: npt.NDArray[np.float64]) -> Latency | None:
    """Return exact percentiles, or None of nothing."""
    if not len(values):
        return None
    ordered = np.sort(values)
    return Latency(*(quantile(ordered, share) for share in _QUANTILES))


def curve(values: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return pairs of percentile and value, closer together towards the slowest."""
    if not len(values):
        return []
    ordered = np.sort(values)
    nines = math.log10(max(len(ordered), 2))
    shares = [1 - 10 ** (-nines * index / _CURVE_POINTS) for index in range(_CURVE_POINTS + 1)]
    points = [(100 * share, quantile(ordered, share)) for share in shares]
    return [*points[:-1], (points[-1][0], float(ordered[-1]))]


def _select(run: Run) -> _Selected:
    part = slice(run.first, run.count)
    record = run.record
    outcomes = integers(record.outcomes)[part]
    ended = outcomes != PENDING
    columns = (record.due_ns, record.sent_ns, record.done_ns)
    due_ns, sent_ns, done_ns = (integers(column)[part][ended] for column in columns)
    return _Selected(due_ns, sent_ns, done_ns, outcomes[ended])


def _errors(run: Run, chosen: _Selected) -> dict[str, int]:
    numbers, counts = np.unique(chosen.outcomes, return_counts=True)
    found = {
        run.record.names[int(number)]: int(count)
        for number, count in zip(numbers, counts, strict=True)
        if number != OK
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _unmet(latency_us: npt.NDArray[np.float64], share: float, objective: Objective) -> list[str]:
    unmet: list[str] = []
    if not len(latency_us):
        return ["no request was answered right"]
    if share < objective.goodput:
        unmet.append(f"goodput {100 * share:.2f} % is below {100 * objective.goodput:g} %")
    reached_us = quantile(np.sort(latency_us), objective.quantile)
    if reached_us > objective.slo_s * 1e6:
        unmet.append(
            f"p{100 * objective.quantile:g} {reached_us / 1e3:.3g} ms is over "
            f"{1e3 * objective.slo_s:g} ms"
        )
    return unmet


def _own(run: Run, chosen: _Selected, objective: Objective) -> Own:
    sent = chosen.sent_ns > 0
    lag_us = (chosen.sent_ns - chosen.due_ns)[sent] / _NS_PER_US
    cpu_share = run.cpu_ns / run.wall_ns if run.wall_ns > 0 else 0.0
    limit_us = max(_LEAST_LAG_LIMIT_US, _LAG_PART_OF_SLO * objective.slo_s * 1e6)
    late = int((chosen.outcomes == LATE).sum())
    reasons: list[str] = []
    if late:
        limit_s = late_limit_s(objective)
        reasons.append(f"{late} requests could not be sent within {limit_s:g} s of their time")
    if len(lag_us) and quantile(np.sort(lag_us), objective.quantile) > limit_us:
        reached_ms = quantile(np.sort(lag_us), objective.quantile) / 1e3
        reasons.append(
            f"p{100 * objective.quantile:g} of how late requests were sent is {reached_ms:.3g} ms, "
            f"over {limit_us / 1e3:g} ms"
        )
    if reasons:
        reasons.append(f"the generator used {100 * cpu_share:.0f} % of a core")
    return Own(percentiles(lag_us), cpu_share, bool(reasons), "; ".join(reasons))
