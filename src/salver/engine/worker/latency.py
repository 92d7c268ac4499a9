"""Learns how long a batch takes from how long batches took."""

import math

import msgspec

_LEAST_SHARE = 0.05
_FEW = 4
_BY_CHANCE = 1.5
_MOST_AT_ONCE = 2.0
_HOPE = 0.8
_STALE_RUNS = 512


class _Cell(msgspec.Struct):
    """What is known of batches of about one size: nanoseconds for a token.

    ``count`` is how often that was seen, ``seen`` when for the last time.
    """

    token_ns: float
    seen: int
    count: int = 1


class LatencyTable:
    """Time of a batch by its rows and the tokens of its longest row.

    Both count in powers: of 2 for rows, of the root of 2 for tokens, and what is kept in between is
    the time for one token, so that the table is small. A size that was not tried for long, or
    never, is expected to cost a little less for a token than the next smaller one: what is worth
    more when it is larger is found by trying, step by step, and what was once slow gets another
    chance.
    """

    def __init__(self) -> None:
        self._lengths: dict[int, dict[int, _Cell]] = {}
        self._runs = 0

    def learn(self, rows: int, length: int, run_ns: int) -> None:
        """Take note of a batch that ran; one that took unusually long changes little."""
        self._runs += 1
        seen_ns = max(1, run_ns) / (rows * length)
        cells = self._lengths.setdefault(_length_bucket(length), {})
        cell = cells.get(_rows_bucket(rows))
        if cell is None or (self._is_stale(cell) and _is_other(cell.token_ns, seen_ns)):
            cells[_rows_bucket(rows)] = _Cell(seen_ns, self._runs)
            return
        if self._is_stale(cell):
            cell.count = min(cell.count, _FEW)
        known_ns = cell.token_ns
        seen_ns = min(seen_ns, known_ns * _MOST_AT_ONCE)
        cell.count += 1
        cell.token_ns += max(_LEAST_SHARE, 1 / cell.count) * (seen_ns - known_ns)
        cell.seen = self._runs

    def expect_ns(self, rows: int, length: int) -> float:
        """Return how long a batch is expected to take; no more than its tokens while untaught."""
        tokens, bucket = rows * length, _length_bucket(length)
        if not self._lengths:
            return float(tokens)
        cells = self._lengths.get(bucket)
        if cells is None:
            cells = self._lengths[min(self._lengths, key=lambda known: abs(known - bucket))]
        return tokens * self._token_ns(cells, _rows_bucket(rows))

    def _token_ns(self, cells: dict[int, _Cell], bucket: int) -> float:
        cell = cells.get(bucket)
        if cell is not None and not self._is_stale(cell):
            return cell.token_ns
        smaller = max((known for known in cells if known < bucket), default=None)
        if smaller is not None:
            return cells[smaller].token_ns * _HOPE
        return cells[min(cells, key=lambda known: abs(known - bucket))].token_ns

    def _is_stale(self, cell: _Cell) -> bool:
        return self._runs - cell.seen > _STALE_RUNS


def _is_other(known_ns: float, seen_ns: float) -> bool:
    """Tell whether two times differ by more than chance makes them differ."""
    return not known_ns < seen_ns * _BY_CHANCE < known_ns * _BY_CHANCE**2


def _length_bucket(length: int) -> int:
    return round(2 * math.log2(length))


def _rows_bucket(rows: int) -> int:
    return round(math.log2(rows))
