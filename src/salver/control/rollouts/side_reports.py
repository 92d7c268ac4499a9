"""What shadows and experiments have shown so far."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from salver.control.rollouts.experiments import RATIO_ALPHA, SplitChange, exposures_of
from salver.control.rollouts.sides import Sides
from salver.core.names import check_name
from salver.core.sides import EXPERIMENT, SHADOW, Side
from salver.observe.catalog import DIFFERENCE_BUCKETS, SECONDS_BUCKETS
from salver.observe.merge import Merger, Totals
from salver.registry.feedback import Sums
from salver.rollout.exposures import Exposures
from salver.rollout.outcomes import NO_VERDICT, ArmReport, Cell, Design, report
from salver.rollout.sample_ratio import SplitRatio

ALPHA = 0.05
_COPIES, _DIFFERENCE = "salver_shadow_copies_total", "salver_shadow_difference"
_SECONDS, _REQUESTS = "salver_shadow_seconds", "salver_requests_total"
_OUTCOMES = ("agrees", "differs", "failed", "dropped")
_QUANTILES = (0.5, 0.95, 0.99)


class SideReports:
    """Reads what was counted; changes nothing."""

    def __init__(self, sides: Sides, merger: Merger) -> None:
        self.sides = sides
        self._merger = merger

    async def shadow(self, endpoint: str) -> dict[str, Any]:
        """Return how the newest shadow compares; raises ``SideNotFound``."""
        side = await self._newest(endpoint, SHADOW)
        totals = self._merger.totals()
        copies = _copies(side, totals)
        compared = copies["agrees"] + copies["differs"]
        differences = _histogram(totals, _DIFFERENCE, side, ())
        return {
            **shown(side),
            "copies": copies,
            "agreement": copies["agrees"] / compared if compared else None,
            "failures": copies["failed"] / (compared + copies["failed"])
            if compared + copies["failed"]
            else None,
            **_largest(differences),
            "seconds": {
                who: {
                    f"p{round(100 * share)}": quantile(
                        SECONDS_BUCKETS, _histogram(totals, _SECONDS, side, (who,)), share
                    )
                    for share in _QUANTILES
                }
                for who in ("primary", "shadow")
            },
        }

    async def experiment(self, endpoint: str) -> dict[str, Any]:
        """Return how the arms of the newest experiment compare; raises ``SideNotFound``.

        Nothing is said of them while they have not got the traffic of their weights.
        """
        side = await self._newest(endpoint, EXPERIMENT)
        requests = _requests(side, self._merger.totals())
        parts = self.sides.parts

        def work() -> _Seen:
            spec = parts.state.endpoint(endpoint)
            exposures = exposures_of(side)
            exposures.restore(parts.sides.evidence(side))
            sums = parts.outcomes.sums(endpoint, side.metric, sorted(exposures.blocks))
            known = parts.sides.covariate(side)
            sticky = side.sticky
            if sticky is None:
                sticky = spec is not None and bool(spec.routing.key)
            return _Seen(sticky, exposures, sums, known)

        seen = await parts.database(work)
        ratio, found = await asyncio.to_thread(_compared, side, seen)
        rows = [
            {
                **msgspec.to_builtins(arm),
                "weight": side.weights[arm.arm] / 100,
                "requests": sum(n for (name, _), n in requests.items() if name == arm.arm),
            }
            for arm in found
        ]
        return {
            **shown(side),
            "sample_ratio": msgspec.to_builtins(ratio),
            "confidence": 1 - ALPHA,
            "sticky": seen.sticky,
            "callers_known": sum(callers for callers, _ in seen.covariate.values()),
            "arms": rows,
        }

    async def history(self, endpoint: str) -> list[dict[str, Any]]:
        """Return the changes of the newest experiment's weights, newest first, in percent."""
        side = await self._newest(endpoint, EXPERIMENT)
        parts = self.sides.parts
        rows = await parts.database(lambda: parts.sides.history(side))
        found = []
        for sequence, unix_ms, body in rows:
            line = msgspec.json.decode(body, type=SplitChange)
            percent = {name: weight / 100 for name, weight in line.weights.items()}
            found.append(
                {
                    "change": sequence,
                    "unix_ms": unix_ms,
                    "percent": percent,
                    "best": line.best,
                    "outcomes": line.outcomes,
                    "means": line.means,
                }
            )
        return found

    async def _newest(self, endpoint: str, kind: str) -> Side:
        check_name(endpoint, "endpoint")
        parts = self.sides.parts
        return await parts.database(lambda: parts.sides.newest(endpoint, kind))


class _Seen(NamedTuple):
    """What is stored of an experiment; the covariate by place, as callers and their sum."""

    sticky: bool
    exposures: Exposures
    sums: Sequence[Sums]
    covariate: Mapping[int, tuple[int, float]]


def _compared(side: Side, seen: _Seen) -> tuple[SplitRatio, list[ArmReport]]:
    """Compare the arms, if they have got their traffic."""
    arms = tuple(arm.version for arm in side.arms)
    ratio = seen.exposures.ratio(RATIO_ALPHA)
    names = {_version(arm): arm for arm in arms}
    cells = [
        Cell(names[s.version], s.weight_epoch, s.place, s.count, s.total, s.squares)
        for s in seen.sums
        if s.version in names
    ]
    usual = {place: total / callers for place, (callers, total) in seen.covariate.items()}
    design = Design(arms, seen.exposures.blocks, seen.sticky, side.floor)
    found = report(design, cells, ALPHA, usual)
    if not ratio.holds:
        nothing = {"estimate": None, "low": None, "high": None, "verdict": NO_VERDICT}
        found = [msgspec.structs.replace(arm, **nothing) for arm in found]
    return ratio, found


def shown(side: Side) -> dict[str, Any]:
    """Return a side as the API shows it; parts in percent."""
    arms = {
        arm.version: (arm.sample if side.kind == SHADOW else arm.weight) / 100 for arm in side.arms
    }
    return {
        "endpoint": side.endpoint,
        "kind": side.kind,
        "number": side.number,
        "active": side.is_active,
        "percent": arms,
        "metric": side.metric,
        "split": side.split or "fixed",
        "floor": side.floor / 100,
        "prefer": "less" if side.prefers_less else "more",
        "minimum": side.bounds.minimum,
        "maximum": side.bounds.maximum,
        "changes": side.changes,
        "started_unix_ms": side.started_unix_ms,
        "started_by": side.started_by,
        "ended_unix_ms": side.ended_unix_ms or None,
    }


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Return the upper bound of the bucket that holds a share; None for no counts or no bound."""
    total, seen = sum(counts), 0
    for index, count in enumerate(counts):
        seen += count
        if count and seen >= share * total:
            return bounds[index] if index < len(bounds) else None
    return None


def _largest(differences: Sequence[int]) -> dict[str, float | None]:
    """Return what bounds the largest difference: from above, or only from below; None is none."""
    is_open = any(differences[len(DIFFERENCE_BUCKETS) :])
    return {
        "largest_difference_at_most": quantile(DIFFERENCE_BUCKETS, differences, 1.0),
        "largest_difference_more_than": DIFFERENCE_BUCKETS[-1] if is_open else None,
    }


def _copies(side: Side, totals: Totals) -> dict[str, int]:
    found = dict.fromkeys(_OUTCOMES, 0)
    for (name, labels), value in totals.counters.items():
        if name == _COPIES and _is_of(side, labels) and labels[3] in found:
            found[labels[3]] += int(value)
    return found


def _histogram(totals: Totals, name: str, side: Side, more: tuple[str, ...]) -> list[int]:
    rows = [
        counts
        for (known, labels), (counts, _) in totals.histograms.items()
        if known == name and _is_of(side, labels) and labels[3:] == more
    ]
    return [sum(column) for column in zip(*rows, strict=True)]


def _is_of(side: Side, labels: tuple[str, ...]) -> bool:
    """Tell whether a series (endpoint, variant, weight epoch, …) is about the side's shadow."""
    endpoint, variant, epoch = labels[:3]
    return endpoint == side.endpoint and variant == side.arms[0].version and side.covers(int(epoch))


def _requests(side: Side, totals: Totals) -> Mapping[tuple[str, int], int]:
    """Return the requests of each arm in each weight epoch of an experiment."""
    versions = {arm.version for arm in side.arms}
    found: dict[tuple[str, int], int] = {}
    for (name, labels), value in totals.counters.items():
        if name != _REQUESTS:
            continue
        _, endpoint, variant, epoch, _ = labels
        if endpoint == side.endpoint and variant in versions and side.covers(int(epoch)):
            key = (variant, int(epoch))
            found[key] = found.get(key, 0) + int(value)
    return found


def _version(name: str) -> int:
    return int(name.rpartition(":")[2])
