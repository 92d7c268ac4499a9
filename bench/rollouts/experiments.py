"""Experiments: do intervals hold at all looks when weights follow success, and how wide are they?

Callers have habits, a few send most, and the hour changes how everybody fares, which is what
misleads who adds up arms whose weights have moved.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from salver.core.routing import FULL, ring
from salver.rollout.betting import bound, log_evidence
from salver.rollout.outcomes import Cell, Design, samples
from salver.rollout.tally import Floats
from salver.rollout.thompson import Success, known, thompson_split

ARMS = ("m:1", "m:2")
ALPHA = 0.05
BLOCKS = 10
OUTCOMES = 400
CALLERS = 1_500
FLOOR = 1_000
ZIPF = 1.0


class World(NamedTuple):
    """What happens: ``effect`` is added to the second arm's outcomes.

    ``events`` are yes or no, else values of any size. ``adaptive`` weights follow success.
    """

    name: str
    sticky: bool
    events: bool = True
    adaptive: bool = True
    effect: float = 0.0
    covariate: bool = False
    naive: bool = False


class Coverage(NamedTuple):
    """How many of the runs ever refuted the truth, the final widths, and who got the traffic."""

    runs: int
    missed: int
    width: float
    second: float

    @property
    def allowed(self) -> float:
        """The rate that chance allows: alpha and three standard errors."""
        return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / self.runs)


def coverage(world: World, runs: int, seed: int) -> Coverage:
    """Look after every block of every run; the truth must not be refuted at any look."""
    needed = math.log(2 / ALPHA)
    missed, widths, seconds = 0, [], []
    for run in range(runs):
        rng = np.random.default_rng((seed, run))
        sample, refuted, second = None, False, 0.5
        for design, cells, covariate in watch(world, rng):
            (sample,) = samples(design, cells, covariate)
            evidence = max(log_evidence(sample, world.effect, sign) for sign in (1, -1))
            refuted = refuted or evidence >= needed
            newest = design.blocks[max(design.blocks)]
            second = newest[1] / sum(newest)
        assert sample is not None
        missed += refuted
        widths.append(bound(sample, -1, ALPHA / 2) - bound(sample, 1, ALPHA / 2))
        seconds.append(second)
    return Coverage(runs, missed, float(np.median(widths)), float(np.mean(seconds)))


def watch(
    world: World, rng: np.random.Generator
) -> Iterator[tuple[Design, list[Cell], dict[int, float] | None]]:
    """Yield what is known after each block."""
    places = rng.integers(0, FULL, CALLERS)
    habits = rng.beta(0.6, 1.4, CALLERS) if world.events else rng.normal(5.0, 2.0, CALLERS)
    before = habits + rng.normal(0.0, 0.25 * float(habits.std()), CALLERS)
    share = 1.0 / np.arange(1, CALLERS + 1) ** ZIPF
    share /= share.sum()
    sums: dict[int, list[float]] = {}
    for caller, place in enumerate(places.tolist()):
        sums.setdefault(place, []).append(float(before[caller]))
    usual = {place: float(np.mean(values)) for place, values in sums.items()}
    blocks: dict[int, tuple[int, ...]] = {}
    cells: list[Cell] = []
    weights: tuple[int, ...] = (FULL // 2, FULL // 2)
    for epoch in range(1, BLOCKS + 1):
        blocks[epoch] = weights
        who = rng.choice(CALLERS, OUTCOMES, p=share)
        where = places[who] if world.sticky else rng.integers(0, FULL, OUTCOMES)
        hour = math.sin(2 * math.pi * epoch / BLOCKS)
        second = _second(where, weights, world)
        values = _values(world, habits[who], hour, second, rng)
        cells += _cells(epoch, where, second, values)
        floor = FLOOR if world.adaptive and not world.naive else 0
        sticky = world.sticky and not world.naive
        shown = dict.fromkeys(blocks, (1, 1)) if world.naive else dict(blocks)
        yield Design(ARMS, shown, sticky, floor), cells, usual if world.covariate else None
        if world.adaptive:
            weights = _next(blocks, cells, rng)


def _second(where: np.ndarray, weights: tuple[int, ...], world: World) -> np.ndarray:
    """Tell which outcomes are the second arm's."""
    parts = ring(weights, FLOOR if world.adaptive else 0)
    edges = np.cumsum([length for _, length in parts])
    owners = np.array([index for index, _ in parts])
    return np.asarray(owners[np.searchsorted(edges, where, side="right")] == 1)


def _values(
    world: World, habits: Floats, hour: float, second: np.ndarray, rng: np.random.Generator
) -> Floats:
    if world.events:
        chance = np.clip(0.1 + 0.7 * habits + 0.1 * hour, 0.0, 0.9) + world.effect * second
        return (rng.random(len(chance)) < chance).astype(np.float64)
    noise = rng.normal(0.0, 1.0, len(habits))
    return np.asarray(habits + hour + noise + world.effect * second)


def _cells(epoch: int, where: np.ndarray, second: np.ndarray, values: Floats) -> list[Cell]:
    found: dict[tuple[str, int], tuple[int, float, float]] = {}
    for place, mine, value in zip(where.tolist(), second.tolist(), values.tolist(), strict=True):
        key = (ARMS[mine], place)
        count, total, squares = found.get(key, (0, 0.0, 0.0))
        found[key] = (count + 1, total + value, squares + value * value)
    return [Cell(arm, epoch, place, *sums) for (arm, place), sums in found.items()]


def _next(
    blocks: dict[int, tuple[int, ...]], cells: list[Cell], rng: np.random.Generator
) -> tuple[int, ...]:
    seen: dict[int, dict[str, Success]] = {epoch: {} for epoch in blocks}
    for cell in cells:
        was = seen[cell.epoch].get(cell.arm, Success())
        seen[cell.epoch][cell.arm] = Success(
            was.count + cell.count, was.total + cell.total, was.squares + cell.squares
        )
    pairs = [(dict(zip(ARMS, own, strict=True)), seen[epoch]) for epoch, own in blocks.items()]
    return thompson_split(known(pairs, ARMS), FLOOR, rng).weights


WORLDS = (
    World("requests, split by success, equal", sticky=False),
    World("requests, split by success, second 5 points better", sticky=False, effect=0.05),
    World("callers, split by success, equal", sticky=True),
    World("callers, split by success, second 5 points better", sticky=True, effect=0.05),
    World("callers, values, split by success, equal", sticky=True, events=False),
    World("callers, values, 50/50, plain", sticky=True, events=False, adaptive=False, effect=0.3),
    World("callers, values, 50/50, with what was known before", sticky=True, events=False,
          adaptive=False, effect=0.3, covariate=True),
    World("callers, values, split by success, with what was known before", sticky=True,
          events=False, effect=0.3, covariate=True),
    World("callers, yes or no, 50/50, plain", sticky=True, adaptive=False),
    World("callers, yes or no, 50/50, with what was known before", sticky=True, adaptive=False,
          covariate=True),
    World("for comparison: callers, all added up as single requests", sticky=True, naive=True),
)  # fmt: skip
