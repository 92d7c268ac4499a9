"""Tables and medians of a report."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def median(items: Sequence[T], value: Callable[[T], float]) -> float:
    """Median of `value` over the items; NaN without any."""
    return statistics.median([value(item) for item in items]) if items else float("nan")


def seconds(values: Sequence[float]) -> str:
    """Median of some seconds, or a dash."""
    return f"{statistics.median(values):.2f}" if values else "—"


def times(ratio: float | None) -> str:
    """A ratio, or a dash."""
    return "—" if ratio is None else f"{ratio:.2f}"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table padded so that it reads in a terminal."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])
