"""Values per time slice of canary and primary, from cumulative counts, for Kayenta's test.

Each slice is what was counted between two looks, the same for both arms. Most metrics are one
number; all classes are one for each class, and scores one for each edge: the share above it. With
their mean they are two more: the mean, and the share of those that are left out of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from salver.core.errors import InvalidSettings
from salver.rollout.counted import Counted, counted, levelled, score_mean, since
from salver.rollout.evidence import Observed
from salver.rollout.kayenta import MIN_VALUES, Series
from salver.rollout.metrics.classes import names_of
from salver.rollout.metrics.feedback import are_shares
from salver.rollout.metrics.latency import quantile
from salver.rollout.policy import MetricSpec
from salver.rollout.tally import (
    ERRORS,
    FEEDBACK_COLUMNS,
    REFUSED,
    REMEMBERED,
    REQUESTS,
    Floats,
    Layout,
)

MAX_SLICES = 4_000
MAX_VALUES = 64_000
"""How many values of an arm are kept at most, all metrics together."""
_CLASSES, _SCORE = "class_share", "score"
_MEANS = ("mean", "left out of the mean")
_KINDS = (
    "error_rate", "refusal_rate", "latency", _CLASSES, _SCORE, "feedback_rate", "feedback_mean",
)  # fmt: skip

Value = float | None
Pair = tuple[tuple[Value, ...], tuple[Value, ...]]
"""The primary's values and the canary's."""


class Slices(msgspec.Struct, frozen=True):
    """All slices so far, as they are kept; None where a slice had no value.

    ``end_s`` is when the last one ended, in the rollout's own time, and ``primary`` and ``canary``
    what was counted until then. ``values`` are by metric, ``parts`` by metric and part for those
    that are several numbers. ``gaps`` is how many times something had been left out by then.
    """

    end_s: float = 0.0
    primary: Counted | None = None
    canary: Counted | None = None
    values: dict[str, Pair] = {}
    gaps: int = 0
    parts: dict[str, dict[str, Pair]] = {}

    def series(self) -> Mapping[str, Mapping[str, Series]]:
        """Return by metric and part what may be looked at; the only part of a number has no name.

        It is whole lots of ``MIN_VALUES`` slices, each look at new ones: looked at after every
        slice, a test that is made for one look would find harm by chance.
        """
        every = self.parts | {name: {"": pair} for name, pair in self.values.items()}
        return {
            name: {part: Series(_whole(pair[0]), _whole(pair[1])) for part, pair in parts.items()}
            for name, parts in every.items()
        }


def check_kinds(specs: Sequence[MetricSpec], score_edges: Sequence[float]) -> None:
    """Raise ``InvalidSettings`` for metrics of which slices have no values."""
    for spec in specs:
        what = f"analysis: metric {spec.name!r} of kind {spec.kind!r}"
        if spec.kind not in _KINDS:
            raise InvalidSettings(
                f"{what} has no numbers per time slice, which kayenta compares; leave it out "
                f"(kayenta knows {', '.join(_KINDS)}), or compare with 'method: sequential'"
            )
        if spec.kind == _SCORE and not score_edges and not spec.mean:
            raise InvalidSettings(
                f"{what} needs 'score_edges', above which scores are counted, or 'mean: true'"
            )
        if _has_parts(spec) and (spec.relative or spec.direction != "either"):
            raise InvalidSettings(
                f"{what} is several numbers, which move up and down together; write "
                f"'direction: either', and not 'relative'"
            )


def cut(
    slices: Slices,
    observed: Sequence[Observed],
    specs: Sequence[MetricSpec],
    now_s: float,
    slice_s: float,
    gaps: int = 0,
) -> Slices:
    """Return slices with the one that has ended, if one has; ``slice_s`` is how long each lasts.

    The one in which another of the ``gaps`` began has no value: its beginning is left out now.
    """
    measured = [each for each in observed if not each.block.warmup]
    if slices.gaps != gaps:
        slices = msgspec.structs.replace(slices, primary=None, canary=None, gaps=gaps)
    if not measured or (slices.primary is not None and now_s - slices.end_s < slice_s):
        return slices
    layout = measured[-1].block.primary
    primary, canary = counted(measured)
    values, parts = slices.values, slices.parts
    if slices.primary is not None and slices.canary is not None and not _is_full(slices):
        arms = (since(layout, primary, slices.primary), since(layout, canary, slices.canary))
        came = _Came(layout, *levelled(layout, arms, round(now_s * 1e6)))
        values = {
            spec.name: _longer(values.get(spec.name), came, spec)
            for spec in specs
            if not _has_parts(spec)
        }
        parts = {
            spec.name: {
                part: _longer(parts.get(spec.name, {}).get(part), came, spec, place)
                for place, part in enumerate(_parts(spec, layout))
            }
            for spec in specs
            if _has_parts(spec)
        }
    return Slices(now_s, primary, canary, values, gaps, parts)


def _is_full(slices: Slices) -> bool:
    pairs = [*slices.values.values(), *(p for each in slices.parts.values() for p in each.values())]
    room = max(MIN_VALUES, min(MAX_SLICES, MAX_VALUES // max(len(pairs), 1)))
    return any(len(primary) >= room for primary, _ in pairs)


def _has_parts(spec: MetricSpec) -> bool:
    return spec.kind == _SCORE or (spec.kind == _CLASSES and not spec.label)


def _parts(spec: MetricSpec, layout: Layout) -> tuple[str, ...]:
    if spec.kind == _SCORE:
        # Six digits would give close edges one name, and one series.
        edges = tuple(f"above {edge:.15g}" for edge in layout.score_edges)
        return (*_MEANS, *edges) if spec.mean else edges
    if not layout.labels:
        raise InvalidSettings("the gateways count no classes; the policy must name them")
    return names_of(layout.labels)


class _Came(NamedTuple):
    """What was counted in one slice."""

    layout: Layout
    primary: Counted
    canary: Counted


def _longer(pair: Pair | None, came: _Came, spec: MetricSpec, place: int = 0) -> Pair:
    """Return a metric's values, or those of its part at this place, with the slice's."""
    primary, canary = pair or ((), ())
    return (
        (*primary, _value(spec, came.layout, came.primary, place)),
        (*canary, _value(spec, came.layout, came.canary, place)),
    )


def _whole(values: tuple[Value, ...]) -> tuple[float, ...]:
    seen = values[: len(values) // MIN_VALUES * MIN_VALUES]
    return tuple(math.nan if value is None else value for value in seen)


def _value(spec: MetricSpec, layout: Layout, came: Counted, place: int) -> Value:
    """Return a metric's value in one slice; None where nothing was counted."""
    if spec.kind == "latency":
        bins = np.asarray(came.bins)
        return quantile(bins, spec.quantile) if bins.any() else None
    columns = np.asarray(came.columns)
    if spec.mean and place == 0:
        return score_mean(layout, columns)
    if _has_parts(spec):
        part, whole = _part(spec, layout, columns, place)
    else:
        part, whole = _share(spec, layout, columns)
    return part / whole if whole > 0.0 else None


def _part(spec: MetricSpec, layout: Layout, columns: Floats, place: int) -> tuple[float, float]:
    """Return what is divided by what for one class, above one edge, or left out of the mean."""
    if spec.mean and place < len(_MEANS):
        used, left_out = columns[layout.first_mean : layout.first_mean + 2]
        return float(left_out), float(used + left_out)
    if spec.kind == _SCORE:
        edge = place - (len(_MEANS) if spec.mean else 0)
        bins = columns[layout.first_score : layout.first_feedback]
        return float(bins[edge + 1 :].sum()), float(bins.sum())
    labels = columns[layout.first_label : layout.first_score]
    return float(labels[place]), float(labels.sum())


def _share(spec: MetricSpec, layout: Layout, columns: Floats) -> tuple[float, float]:
    """Return what a metric divides by what."""
    if spec.kind == "error_rate":
        return float(columns[ERRORS]), float(columns[REQUESTS] - columns[REMEMBERED])
    if spec.kind == "refusal_rate":
        return float(columns[REFUSED]), float(columns[REQUESTS])
    if spec.kind == _CLASSES:
        if spec.label not in layout.labels:
            raise InvalidSettings(f"the gateways do not count the class {spec.label!r}")
        labels = columns[layout.first_label : layout.first_score]
        return float(labels[layout.labels.index(spec.label)]), float(labels.sum())
    name = spec.feedback_name
    column = layout.first_feedback + FEEDBACK_COLUMNS * layout.feedback.index(name)
    sums = columns[column : column + FEEDBACK_COLUMNS]
    if spec.kind == "feedback_rate" and not are_shares(sums[np.newaxis])[0]:
        # Somebody reported what is no share: nothing is known of this slice.
        return 0.0, 0.0
    return float(columns[column + 1]), float(columns[column])
