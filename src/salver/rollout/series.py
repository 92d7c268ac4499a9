"""Values per time slice of canary and primary, from cumulative counts, for Kayenta's test.

Each slice is what was counted between two looks, the same for both arms.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from salver.core.errors import InvalidSettings
from salver.rollout.evidence import Observed
from salver.rollout.kayenta import MIN_VALUES, Series
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
    Table,
)

MAX_SLICES = 4_000
_KINDS = ("error_rate", "refusal_rate", "latency", "class_share", "feedback_rate", "feedback_mean")

Value = float | None


class Counted(msgspec.Struct, frozen=True):
    """What one arm had in all measured blocks: its columns added up, and its latencies in bins."""

    columns: tuple[float, ...]
    bins: tuple[float, ...]


class Slices(msgspec.Struct, frozen=True):
    """All slices so far, as they are kept; None where a slice had no value.

    ``end_s`` is when the last one ended, in the rollout's own time, and ``primary`` and ``canary``
    what was counted until then. ``values`` are by metric: the primary's and the canary's. ``gaps``
    is how many times something had been left out by then.
    """

    end_s: float = 0.0
    primary: Counted | None = None
    canary: Counted | None = None
    values: dict[str, tuple[tuple[Value, ...], tuple[Value, ...]]] = {}
    gaps: int = 0

    def series(self) -> Mapping[str, Series]:
        """Return what may be looked at: whole lots of ``MIN_VALUES`` slices, each look at new ones.

        Looked at after every slice, a test that is made for one look would find harm by chance.
        """
        return {
            name: Series(_whole(primary), _whole(canary))
            for name, (primary, canary) in self.values.items()
        }


def check_kinds(specs: Sequence[MetricSpec]) -> None:
    """Raise ``InvalidSettings`` for metrics that are not one number per slice."""
    for spec in specs:
        instead = ""
        if spec.kind not in _KINDS:
            instead = f"leave it out (kayenta knows {', '.join(_KINDS)})"
        elif spec.kind == "class_share" and not spec.label:
            instead = "name one class with 'label'"
        if instead:
            raise InvalidSettings(
                f"analysis: kayenta compares one number per time slice, which metric {spec.name!r} "
                f"of kind {spec.kind!r} is not; {instead}, or compare with 'method: sequential'"
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
        slices = Slices(slices.end_s, None, None, slices.values, gaps)
    if not measured or (slices.primary is not None and now_s - slices.end_s < slice_s):
        return slices
    layout = measured[-1].block.primary
    primary = _counted([each.primary for each in measured])
    canary = _counted([each.canary for each in measured])
    values = slices.values
    if slices.primary is not None and slices.canary is not None and _length(slices) < MAX_SLICES:
        values = {
            spec.name: (
                (*before[0], _value(spec, layout, slices.primary, primary)),
                (*before[1], _value(spec, layout, slices.canary, canary)),
            )
            for spec in specs
            for before in [slices.values.get(spec.name, ((), ()))]
        }
    return Slices(now_s, primary, canary, values, gaps)


def _length(slices: Slices) -> int:
    return max((len(primary) for primary, _ in slices.values.values()), default=0)


def _whole(values: tuple[Value, ...]) -> tuple[float, ...]:
    seen = values[: len(values) // MIN_VALUES * MIN_VALUES]
    return tuple(math.nan if value is None else value for value in seen)


def _counted(tables: Sequence[Table]) -> Counted:
    columns = np.sum([table.rows.sum(axis=0) for table in tables], axis=0)
    bins = np.sum([table.bins for table in tables], axis=0)
    return Counted(tuple(columns.tolist()), tuple(bins.tolist()))


def _value(spec: MetricSpec, layout: Layout, before: Counted, now: Counted) -> Value:
    """Return a metric's value between two moments; None where nothing was counted."""
    columns = np.maximum(np.subtract(now.columns, before.columns), 0.0)
    if spec.kind == "latency":
        bins = np.maximum(np.subtract(now.bins, before.bins), 0.0)
        return quantile(bins, spec.quantile) if bins.any() else None
    part, whole = _share(spec, layout, columns)
    return part / whole if whole > 0.0 else None


def _share(spec: MetricSpec, layout: Layout, columns: Floats) -> tuple[float, float]:
    """Return what a metric divides by what."""
    if spec.kind == "error_rate":
        return float(columns[ERRORS]), float(columns[REQUESTS] - columns[REMEMBERED])
    if spec.kind == "refusal_rate":
        return float(columns[REFUSED]), float(columns[REQUESTS])
    if spec.kind == "class_share":
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
