"""Goodput under overload as a picture: SVG text, a line for each server."""

from __future__ import annotations

import math
from html import escape

from bench.results import Overload

WIDTH, HEIGHT = 880, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 60, 60
COLOURS = {
    "salver": "#1b6ca8",
    "triton": "#4f7d2a",
    "triton-limited": "#9bbf3b",
    "mlserver": "#c0562b",
}
OTHER = "#666"
TICKS_X = (0.5, 1.0, 2.0, 5.0, 10.0)
TICKS_Y = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_Y = 1.15


def goodput_plot(found: dict[str, Overload]) -> str:
    """Return an SVG document: answers in time by capacity, over offered load by capacity."""
    size = f"viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} font-family='system-ui, sans-serif'>",
        "<title>Goodput under overload</title>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        _text(LEFT, 28, "Goodput under overload, image classifier", size=17),
        _text(
            LEFT, 48, "answers within 2 × the unloaded p99 + 200 ms; each server by its capacity"
        ),
        *_grid(),
    ]
    for row, (name, one) in enumerate(found.items()):
        colour = COLOURS.get(name, OTHER)
        points = [
            (step.times, step.offered.in_time_per_s / one.capacity_per_s) for step in one.steps
        ]
        path = " ".join(f"{_x(times):.1f},{_y(share):.1f}" for times, share in points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [
            f"<circle cx='{_x(times):.1f}' cy='{_y(share):.1f}' r='3.5' fill='{colour}'/>"
            for times, share in points
        ]
        y = TOP + 20 + 22 * row
        left = WIDTH - RIGHT + 14
        parts.append(
            f"<line x1='{left}' y1='{y - 4}' x2='{left + 24}' y2='{y - 4}' stroke='{colour}' "
            "stroke-width='3'/>"
        )
        parts.append(_text(left + 32, y, f"{name}, {one.capacity_per_s:.0f}/s"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _grid() -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for share in TICKS_Y:
        y = _y(share)
        parts.append(f"<line x1='{LEFT}' y1='{y:.1f}' x2='{right}' y2='{y:.1f}' stroke='#ddd'/>")
        parts.append(_text(LEFT - 10, y + 4, f"{share:.2f}", anchor="end"))
    for times in TICKS_X:
        x = _x(times)
        parts.append(f"<line x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{bottom}' stroke='#ddd'/>")
        parts.append(_text(x, bottom + 20, f"{times:g} ×", anchor="middle"))
    middle = (LEFT + right) / 2
    parts.append(_text(middle, bottom + 44, "offered load by capacity", anchor="middle"))
    return parts


def _x(times: float) -> float:
    share = math.log(times / TICKS_X[0]) / math.log(TICKS_X[-1] / TICKS_X[0])
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - min(share, MOST_Y) / MOST_Y * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='#222'>"
        f"{escape(text)}</text>"
    )
