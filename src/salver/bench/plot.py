"""Latency by percentile as a picture: SVG text, one line for each rate."""

import math
from dataclasses import dataclass
from html import escape

from salver.bench.figures import Report, Step

_WIDTH, _HEIGHT = 960, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 210, 64, 64
_MAX_LINES = 8
_LEAST_SPAN = 4.0
_HALO = "paint-order='stroke' stroke='white' stroke-width='4'"
_FONT = "font-family='system-ui, sans-serif'"
# From dark to bright, so that the order of the rates is seen even without colour.
_COLOURS = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#e0c020")
_UNIT_STEPS = (1, 2, 5)
_US_PER_MS = 1e3
_US_PER_S = 1e6


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where a percentile and a latency in microseconds lie on the picture; both are logarithmic."""

    nines: float
    low_us: float
    high_us: float

    def x(self, percentile: float) -> float:
        """Return the place of a percentile: each nine takes the same room."""
        nines = -math.log10(max(1 - percentile / 100, 10**-self.nines))
        return _LEFT + nines / self.nines * (_WIDTH - _LEFT - _RIGHT)

    def y(self, latency_us: float) -> float:
        """Return the place of a latency."""
        span = math.log(self.high_us / self.low_us)
        share = math.log(max(latency_us, self.low_us) / self.low_us) / span
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def latency_plot(report: Report) -> str:
    """Return an SVG document; a report without answers gives axes and a remark."""
    steps = _chosen(report.steps)
    slo_us = 1e3 * report.settings.slo_ms
    axes = _axes(steps, slo_us)
    size = f"viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}'"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img'>",
        f"<title>{escape(_title(report))}</title>",
        f"<rect width='{_WIDTH}' height='{_HEIGHT}' fill='white'/>",
        _text(_LEFT, 28, _title(report), size=17, weight="bold"),
        _text(_LEFT, 48, _subtitle(report), size=12, fill="#555"),
        *_grid(axes),
        *_objective(axes, slo_us, report.settings.slo_ms),
        *_lines(axes, steps),
        *_legend(steps),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _title(report: Report) -> str:
    return f"Latency of {report.endpoint} by percentile"


def _subtitle(report: Report) -> str:
    capacity = report.capacity
    found = "" if capacity is None else f"; capacity {capacity.rate_per_s:,.0f} requests/s"
    return (
        f"open loop, {report.settings.arrivals} arrivals, counted from when each request was due"
        f"{found}"
    )


def _chosen(steps: list[Step]) -> list[Step]:
    """Return the last step of each rate, evenly thinned, lowest and highest kept."""
    by_rate = {step.rates.target: step for step in steps if step.curve}
    ordered = [by_rate[rate] for rate in sorted(by_rate)]
    if len(ordered) <= _MAX_LINES:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(index * last / (_MAX_LINES - 1))] for index in range(_MAX_LINES)]


def _axes(steps: list[Step], slo_us: float) -> _Axes:
    values = [value for step in steps for _, value in step.curve] + [slo_us]
    low, high = max(min(values), 1.0), max(*values, 1.0)
    low, high = low / 1.3, high * 1.3
    if high / low < _LEAST_SPAN:
        low, high = low / 2, high * 2
    most = max((step.requests.ok for step in steps), default=100)
    return _Axes(max(2.0, math.log10(max(most, 2))), low, high)


def _grid(axes: _Axes) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts: list[str] = []
    ticks_y = _latency_ticks(axes)
    for value in ticks_y:
        y = axes.y(value)
        parts.append(_line((_LEFT, y), (right, y), "#e4e4e4"))
        parts.append(_text(_LEFT - 8, y + 4, _duration(value), anchor="end"))
    for percentile, label in _percentile_ticks(axes.nines):
        x = axes.x(percentile)
        parts.append(_line((x, _TOP), (x, bottom), "#e4e4e4"))
        parts.append(_text(x, bottom + 20, label, anchor="middle"))
    parts.append(_line((_LEFT, bottom), (right, bottom), "#333"))
    parts.append(_line((_LEFT, _TOP), (_LEFT, bottom), "#333"))
    parts.append(
        _text((_LEFT + right) / 2, bottom + 44, "percentile of the right answers", "middle")
    )
    middle = (_TOP + bottom) / 2
    turned = f"transform='rotate(-90 20 {middle:.0f})'"
    parts.append(_text(20, middle, "latency (log scale)", "middle", extra=turned))
    return parts


def _latency_ticks(axes: _Axes) -> list[float]:
    first = math.floor(math.log10(axes.low_us))
    last = math.ceil(math.log10(axes.high_us))
    every = [unit * 10.0**power for power in range(first, last + 1) for unit in _UNIT_STEPS]
    inside = [value for value in every if axes.low_us <= value <= axes.high_us]
    decades = [value for value in inside if math.log10(value).is_integer()]
    return inside if len(inside) <= 2 * len(_UNIT_STEPS) * 2 or not decades else decades


def _percentile_ticks(nines: float) -> list[tuple[float, str]]:
    ticks = [(0.0, "0 %"), (50.0, "50 %"), (90.0, "90 %")]
    for count in range(2, math.floor(nines + 1e-9) + 1):
        percentile = 100 - 10.0 ** (2 - count)
        ticks.append((percentile, f"{percentile:.{max(count - 2, 0)}f} %"))
    return ticks


def _objective(axes: _Axes, slo_us: float, slo_ms: float) -> list[str]:
    y = axes.y(slo_us)
    right = _WIDTH - _RIGHT
    dashes = "stroke-dasharray='6 4'"
    return [
        _line((_LEFT, y), (right, y), "#c0392b", extra=dashes),
        _text(right - 6, y - 6, f"objective {slo_ms:g} ms", "end", fill="#c0392b", extra=_HALO),
    ]


def _lines(axes: _Axes, steps: list[Step]) -> list[str]:
    parts: list[str] = []
    for step, colour in zip(steps, _colours(len(steps)), strict=True):
        points = " ".join(f"{axes.x(share):.1f},{axes.y(value):.1f}" for share, value in step.curve)
        dashes = "" if step.met else " stroke-dasharray='3 3'"
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'{dashes}/>"
        )
    return parts


def _legend(steps: list[Step]) -> list[str]:
    left, top = _WIDTH - _RIGHT + 8, _TOP + 12
    if not steps:
        return [_text(_LEFT + 20, _TOP + 30, "no request was answered right")]
    parts = [_text(left, top - 6, "requests/s (dashed: not met)", size=11, fill="#555")]
    for row, (step, colour) in enumerate(zip(steps, _colours(len(steps)), strict=True)):
        y = top + 16 + 20 * row
        dashes = "" if step.met else "stroke-dasharray='3 3'"
        parts.append(_line((left, y - 4), (left + 26, y - 4), colour, width=2, extra=dashes))
        good = "" if step.met else f", {100 * step.objective_share:.0f} % good"
        late = ", sent late" if step.generator.bottleneck else ""
        parts.append(_text(left + 34, y, f"{step.rates.target:,.0f}{good}{late}"))
    return parts


def _colours(count: int) -> list[str]:
    if count <= 1:
        return list(_COLOURS[2:3])[:count]
    last = len(_COLOURS) - 1
    return [_COLOURS[round(index * last / (count - 1))] for index in range(count)]


def _duration(value_us: float) -> str:
    if value_us >= _US_PER_S:
        return f"{value_us / _US_PER_S:g} s"
    return f"{value_us / _US_PER_MS:g} ms" if value_us >= _US_PER_MS else f"{value_us:g} µs"


Point = tuple[float, float]


def _line(start: Point, end: Point, stroke: str, *, width: int = 1, extra: str = "") -> str:
    (x1, y1), (x2, y2) = start, end
    return (
        f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{stroke}' "
        f"stroke-width='{width}' {extra}/>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", **style: str | int) -> str:
    size, fill = style.get("size", 12), style.get("fill", "#222")
    weight, extra = style.get("weight", "normal"), style.get("extra", "")
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {_FONT} font-size='{size}' font-weight='{weight}' "
        f"fill='{fill}' text-anchor='{anchor}' {extra}>{escape(text)}</text>"
    )
