"""What a gateway counts of one arm inside one block of constant weight: numbers only.

The ring of routing points is cut into ``SEGMENTS`` pieces of equal length. Every request counts
in the segment of the point that routed it, so callers that stick count together, and a segment
is what the analysis takes as one unit of evidence. Requests without a routing key have a random
point, so that their segments are as good as single requests.
"""

import math
import zlib
from bisect import bisect_left
from math import isnan, log
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from salver.core.errors import InvalidRequest, InvalidSettings, WireError
from salver.core.routing import FULL

Floats = npt.NDArray[np.float64]

POINTS = FULL
SEGMENTS = 2_000
MAX_COLUMNS = 96
LATENCY_BINS = 400
LATENCY_GROWTH = 1.05
_POINTS_PER_SEGMENT = POINTS // SEGMENTS
_FASTEST_S = 1e-5
_BINS_PER_LOG = 1.0 / math.log(LATENCY_GROWTH)
_OFFSET = 0.5 - math.log(_FASTEST_S) * _BINS_PER_LOG

REQUESTS = 0
"""All that chance gave to the arm, whatever became of them."""
ERRORS = 1
KEYED = 2
REFUSED = 3
"""Of these, the ones that the variant takes for the caller's mistake."""
REMEMBERED = 4
"""Of these, the ones that were answered from memory, so that the variant did nothing."""
_FIRST_SLOW = 5
FEEDBACK_COLUMNS = 3
"""Count, sum and sum of squares of one feedback metric."""
MEAN_COLUMNS = 3
"""How many scores are in the mean, how many are left out of it, and the sum of the former."""
LARGEST_SCORE = 1e12
"""A score that is further from 0 would swallow all others in a sum, so it is left out of it."""


def segment_of(point: int) -> int:
    """Return the segment of a routing point in ``[0, POINTS)``."""
    return point // _POINTS_PER_SEGMENT


class Layout(msgspec.Struct, frozen=True):
    """The columns of one arm's table, the same for all gateways during a block.

    ``latencies`` are the names of latency metrics and ``thresholds_s`` the latencies above which
    a request counts as slow for each; the canary's are the primary's times what is tolerated.
    ``labels`` are predicted classes counted by name, any other counts as one more.
    ``score_edges`` ascend and cut scores into ``len + 1`` bins. ``feedback`` names metrics whose
    values come later. With ``score_mean`` scores are added up as well.
    """

    latencies: tuple[str, ...] = ()
    thresholds_s: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    score_edges: tuple[float, ...] = ()
    feedback: tuple[str, ...] = ()
    # What is unset is not written: columns that an older Salver asked for keep their bytes when
    # they are encoded anew, and with them the weight epoch that goes on.
    score_mean: bool | msgspec.UnsetType = msgspec.UNSET

    def validate(self) -> None:
        """Raise ``InvalidSettings`` for columns that cannot be counted."""
        if len(self.latencies) != len(self.thresholds_s):
            raise InvalidSettings("each latency metric has one threshold")
        numbers = (*self.thresholds_s, *self.score_edges)
        if (
            not all(math.isfinite(number) for number in numbers)
            or min(self.thresholds_s, default=1) <= 0
        ):
            raise InvalidSettings("thresholds must be positive and finite, and score edges finite")
        if list(self.score_edges) != sorted(set(self.score_edges)):
            raise InvalidSettings("score edges must ascend; sort them and leave out repeated ones")
        for names in (self.latencies, self.labels, self.feedback):
            if len(set(names)) != len(names):
                raise InvalidSettings(
                    f"names are counted once each; one of {list(names)} is repeated"
                )
        if self.width > MAX_COLUMNS:
            raise InvalidSettings(
                f"{self.width} columns are more than the {MAX_COLUMNS} a gateway counts; "
                "name fewer classes, score edges or metrics"
            )

    @property
    def first_label(self) -> int:
        """The column of the first class."""
        return _FIRST_SLOW + len(self.thresholds_s)

    @property
    def first_score(self) -> int:
        """The column of the lowest score bin."""
        return self.first_label + (len(self.labels) + 1 if self.labels else 0)

    @property
    def first_feedback(self) -> int:
        """The column of the first feedback metric's count."""
        return self.first_score + (len(self.score_edges) + 1 if self.score_edges else 0)

    @property
    def first_mean(self) -> int:
        """The column of how many scores are in their mean."""
        return self.first_feedback + FEEDBACK_COLUMNS * len(self.feedback)

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.first_mean + (MEAN_COLUMNS if self.score_mean else 0)

    def slower_than(self, index: int) -> list[int]:
        """Return the columns that together hold the requests above ``thresholds_s[index]``.

        Requests are counted once, under the highest threshold that they exceed.
        """
        ordered = sorted(self.thresholds_s)
        first = ordered.index(self.thresholds_s[index])
        return [_FIRST_SLOW + rank for rank in range(first, len(ordered))]


class Table(NamedTuple):
    """Cumulative counts of one arm: ``rows[SEGMENTS, width]`` and ``bins[LATENCY_BINS]``."""

    rows: Floats
    bins: Floats

    def plus(self, other: "Table") -> "Table":
        """Return both together."""
        return Table(self.rows + other.rows, self.bins + other.bins)


class Tally:
    """Counts requests of one arm; cumulative, never reset. Half a microsecond for each call."""

    __slots__ = (
        "_bins", "_edges", "_first_feedback", "_first_label", "_first_mean", "_first_score",
        "_labels", "_rows", "_thresholds", "_width",
    )  # fmt: skip

    def __init__(self, layout: Layout) -> None:
        self._width = layout.width
        self._labels = len(layout.labels)
        self._first_label = layout.first_label
        self._first_score = layout.first_score
        self._first_feedback = layout.first_feedback
        self._first_mean = layout.first_mean
        self._thresholds = sorted(layout.thresholds_s)
        self._edges = list(layout.score_edges)
        # Lists, because their items are counted up in half the time that an array takes.
        self._rows = [0.0] * (SEGMENTS * layout.width)
        self._bins = [0.0] * LATENCY_BINS

    def answered(self, segment: int, latency_s: float, *, keyed: bool = True) -> None:
        """Count a request that the variant answered; ``keyed`` when a routing key chose its arm."""
        rows, row = self._rows, segment * self._width
        rows[row] += 1.0
        if keyed:
            rows[row + KEYED] += 1.0
        slow = bisect_left(self._thresholds, latency_s)
        if slow:
            rows[row + _FIRST_SLOW - 1 + slow] += 1.0
        place = int(log(latency_s) * _BINS_PER_LOG + _OFFSET) if latency_s > _FASTEST_S else 0
        self._bins[place if place < LATENCY_BINS else LATENCY_BINS - 1] += 1.0

    def failed(self, segment: int, *, keyed: bool = True) -> None:
        """Count a request that failed by the variant's fault, never by the caller's."""
        self._counted(segment, ERRORS, keyed=keyed)

    def refused(self, segment: int, *, keyed: bool = True) -> None:
        """Count a request that the variant refused as the caller's mistake."""
        self._counted(segment, REFUSED, keyed=keyed)

    def remembered(self, segment: int, *, keyed: bool = True) -> None:
        """Count a request that was answered from memory."""
        self._counted(segment, REMEMBERED, keyed=keyed)

    def predicted(self, segment: int, label: int) -> None:
        """Count a predicted class by its place in the layout; any other place is "other"."""
        place = label if 0 <= label < self._labels else self._labels
        self._rows[segment * self._width + self._first_label + place] += 1.0

    def scored(self, segment: int, score: float) -> None:
        """Count a score in its bin; one that is no number counts as the highest."""
        place = bisect_left(self._edges, score) if not isnan(score) else len(self._edges)
        self._rows[segment * self._width + self._first_score + place] += 1.0

    def averaged(self, segment: int, score: float) -> None:
        """Add a score to the sum; one that is no number, or a huge one, counts as left out."""
        rows, row = self._rows, segment * self._width + self._first_mean
        if -LARGEST_SCORE <= score <= LARGEST_SCORE:
            rows[row] += 1.0
            rows[row + 2] += score
        else:
            rows[row + 1] += 1.0

    def rated(self, segment: int, metric: int, value: float) -> None:
        """Count what a caller later said of an answer, by the metric's place in the layout.

        Raises ``InvalidRequest`` for a value that is not finite: it would spoil every sum.
        """
        if not math.isfinite(value):
            raise InvalidRequest("a feedback value must be a finite number")
        row = segment * self._width + self._first_feedback + FEEDBACK_COLUMNS * metric
        self._rows[row] += 1.0
        self._rows[row + 1] += value
        self._rows[row + 2] += value * value

    def _counted(self, segment: int, column: int, *, keyed: bool) -> None:
        rows, row = self._rows, segment * self._width
        rows[row] += 1.0
        rows[row + column] += 1.0
        if keyed:
            rows[row + KEYED] += 1.0

    def table(self) -> Table:
        """Return a copy of all counts so far."""
        rows = np.array(self._rows).reshape(SEGMENTS, self._width)
        return Table(rows, np.array(self._bins))


def ran(rows: Floats) -> Floats:
    """Return by segment the requests that the variant was asked for, memory aside."""
    return np.asarray(rows[:, REQUESTS] - rows[:, REMEMBERED])


def answered(rows: Floats) -> Floats:
    """Return by segment the requests that the variant answered."""
    return np.asarray(ran(rows) - rows[:, ERRORS] - rows[:, REFUSED])


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """A table for the way and for storage: only rows and bins that are not empty, compressed."""

    width: int
    rows: bytes
    bins: bytes


def pack(table: Table) -> Packed:
    """Return a table in few bytes: some tens of KiB for a busy endpoint."""
    return Packed(table.rows.shape[1], _squeeze(table.rows), _squeeze(table.bins[:, None]))


def unpack(packed: Packed) -> Table:
    """Return the table; raises ``WireError`` for bytes that ``pack`` did not make."""
    if not 1 <= packed.width <= MAX_COLUMNS:
        raise WireError(f"evidence of {packed.width} columns; 1 to {MAX_COLUMNS} are possible")
    rows = _restore(packed.rows, SEGMENTS, packed.width)
    return Table(rows, _restore(packed.bins, LATENCY_BINS, 1)[:, 0])


def _squeeze(values: Floats) -> bytes:
    places = np.flatnonzero(values.any(axis=1))
    raw = places.astype("<u2").tobytes() + values[places].astype("<f8").tobytes()
    return zlib.compress(raw, level=1)


def _restore(data: bytes, height: int, width: int) -> Floats:
    each = 2 + 8 * width
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, height * each + 1)
    except zlib.error as error:
        raise WireError(f"evidence cannot be read: {error}") from error
    count, rest = divmod(len(raw), each)
    if rest or count > height or not inflater.eof:
        raise WireError("evidence has another size than its columns ask for")
    places = np.frombuffer(raw, "<u2", count)
    values = np.frombuffer(raw, "<f8", offset=2 * count).reshape(count, width)
    if count and (np.any(np.diff(places.astype(np.int64)) <= 0) or places[-1] >= height):
        raise WireError("evidence names a row twice or one that does not exist")
    if not np.isfinite(values).all():
        raise WireError("evidence holds values that are no numbers")
    table = np.zeros((height, width))
    table[places] = values
    return table
