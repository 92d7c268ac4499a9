"""The report's sections on many models in little memory, on copies and on routing."""

from __future__ import annotations

import math

from bench.results import Latency, Many, ManyRound, Results, Shadow, ShadowRound
from bench.tables import median, table, times

MB = 1e6


def sections(results: Results) -> list[str]:
    """Return the sections of what was measured."""
    return [
        "" if results.many is None else _many(results.many),
        "" if results.shadow is None else _shadow(results.shadow),
        _routing(results.routing) if results.routing else "",
    ]


def hit_ratio(many: Many) -> float:
    """Return which part of the requests for all models found theirs in memory."""
    asked = sum(one.asked for one in many.rounds)
    return sum(one.hits for one in many.rounds) / asked if asked else 0.0


def memory_ratio(many: Many) -> float:
    """Return the most that the worker occupied by its budget."""
    return many.most_rss_bytes / many.budget_bytes


def loading_ratio(many: Many, name: str) -> float | None:
    """Return the median over the rounds of a latency while others load by that without loads."""
    pairs = [(getattr(one.loading, name), getattr(one.calm, name)) for one in many.rounds]
    ratios = [upper / lower for upper, lower in pairs if upper is not None and lower]
    return median(ratios, float) if ratios else None


def shadow_ratio(shadow: Shadow, name: str) -> float | None:
    """Return the median over the rounds of a latency beside the shadow by that without it."""
    pairs = [(getattr(one.beside, name), getattr(one.without, name)) for one in shadow.half]
    ratios = [upper / lower for upper, lower in pairs if upper is not None and lower]
    return median(ratios, float) if ratios else None


def goodput_ratio(shadow: Shadow) -> float | None:
    """Return what is answered over the capacity beside the shadow by what is without it."""
    lower = shadow.over.without.in_time_per_s
    return shadow.over.beside.in_time_per_s / lower if lower else None


def quantile(values: list[float], share: float) -> float | None:
    """Return a quantile by nearest rank of sorted values."""
    if not values:
        return None
    return values[max(0, math.ceil(share * len(values)) - 1)]


def _many(many: Many) -> str:
    rows = [
        [
            str(number + 1),
            str(one.asked),
            str(one.failed),
            f"{one.hits / max(1, one.asked):.2f}",
            *_latency(one.calm),
            *_latency(one.loading),
            *_latency(one.waited)[1:],
        ]
        for number, one in enumerate(many.rounds)
    ]
    header = ["round", "asked", "failed", "hits", "calm", "p50 ms", "p99 ms", "longest"]
    header += ["while loading", "p50 ms", "p99 ms", "longest"]
    header += ["out: p50 ms", "p99 ms", "longest"]
    facts = [_conditions(many), _memory(many), _answers(many)]
    title = f"## {many.models} models in the memory of {many.budget_for}"
    return "\n\n".join([title, table(header, rows), *facts])


def _conditions(many: Many) -> str:
    return (
        f"{many.models} models of {many.mean_size_bytes / MB:.1f} MB on average, asked by Zipf's "
        f"law at {many.rate_per_s:g}/s; budget {many.budget_bytes / MB:.0f} MB, which is what the "
        f"worker holds beside models and {many.budget_for} of them."
    )


def _memory(many: Many) -> str:
    found = [quantile(many.loads_s, share) for share in (0.5, 0.95, 0.99)]
    loads = ", ".join("—" if value is None else f"{1e3 * value:.0f}" for value in found)
    return (
        f"Hit ratio {hit_ratio(many):.3f}; {len(many.loads_s)} loads, p50, p95, p99 {loads} ms. "
        f"The worker's memory at the most, of {many.looks:,} looks: RSS "
        f"{many.most_rss_bytes / MB:.0f} MB, PSS {many.most_pss_bytes / MB:.0f} MB, "
        f"{memory_ratio(many):.3f} of the budget. Load after the run {many.load_1m}."
    )


def _answers(many: Many) -> str:
    return (
        "Calm: the popular models alone, all in memory. While loading: the same models, in memory, "
        "while others were loaded; p50 and p99 by calm, median of the rounds: "
        f"{times(loading_ratio(many, 'p50_ms'))} and {times(loading_ratio(many, 'p99_ms'))}. "
        f"What happened: {_outcomes(many.rounds)}."
    )


def _outcomes(rounds: list[ManyRound]) -> str:
    names = sorted({name for one in rounds for name in one.outcomes})
    counts = [(name, sum(one.outcomes.get(name, 0) for one in rounds)) for name in names]
    return ", ".join(f"{name} {count:,}" for name, count in counts)


def _latency(found: Latency) -> list[str]:
    return [str(found.count), *map(_ms, (found.p50_ms, found.p99_ms, found.longest_ms))]


def _ms(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def _shadow(shadow: Shadow) -> str:
    names = [f"half, {number + 1}" for number in range(len(shadow.half))]
    rounds = [*zip(names, shadow.half, strict=True), ("over", shadow.over)]
    rows = [[name, *_round(one)] for name, one in rounds]
    header = ["load", "offered/s", "p50 ms", "with", "p99 ms", "with", "answers/s", "with"]
    header += ["copies", "dropped"]
    note = (
        f"Capacity {shadow.capacity_per_s:.0f}/s. Half of it, with by without, median of the "
        f"rounds: p50 {times(shadow_ratio(shadow, 'p50_ms'))}, p99 "
        f"{times(shadow_ratio(shadow, 'p99_ms'))}. Load after the run {shadow.load_1m}."
    )
    title = "## A shadow that gets a copy of every request"
    return f"{title}\n\n{table(header, rows)}\n\n{note}"


def _round(one: ShadowRound) -> list[str]:
    share = one.dropped_share
    return [
        f"{one.without.rate_per_s:.0f}",
        _ms(one.without.p50_ms),
        _ms(one.beside.p50_ms),
        _ms(one.without.p99_ms),
        _ms(one.beside.p99_ms),
        f"{one.without.in_time_per_s:.1f}",
        f"{one.beside.in_time_per_s:.1f}",
        str(sum(one.copies.values())),
        "—" if share is None else f"{share:.3f}",
    ]


def _routing(figures: dict[str, list[float]]) -> str:
    rows = [
        [way, f"{median(added, float):.2f}", f"{min(added):.2f} to {max(added):.2f}"]
        for way, added in figures.items()
    ]
    return "## What a canary adds to a request, in memory\n\n" + table(
        ["requests", "us, median", "range"], rows
    )
