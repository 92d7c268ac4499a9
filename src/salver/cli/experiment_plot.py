"""The report of an experiment as a picture."""

from html import escape
from typing import Any

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 720, 44, 180, 40, 56


def plot_svg(report: dict[str, Any]) -> str:
    """Return the arms' differences from the first one, with their intervals, as SVG."""
    arms = [arm for arm in report["arms"][1:] if arm["estimate"] is not None]
    ends = [0.0] + [v for arm in arms for v in (arm["low"], arm["high"]) if v is not None]
    low, high = float(min(ends)), float(max(ends))
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return _LEFT + (value - low) / span * (_WIDTH - _LEFT - _RIGHT)

    height = _TOP + _ROW * max(1, len(arms)) + 40
    title = f"{report['endpoint']}: {report['metric']}, change from {report['arms'][0]['arm']}"
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="28" font-size="15">{escape(title)}</text>',
        (
            f'<line x1="{x(0):.1f}" y1="{_TOP - 8}" x2="{x(0):.1f}" y2="{height - 32}" '
            'stroke="#888" stroke-dasharray="4 3"/>'
        ),
        f'<text x="{x(0):.1f}" y="{height - 14}" text-anchor="middle" fill="#555">0</text>',
    ]
    for index, arm in enumerate(arms):
        y = _TOP + _ROW * index + _ROW / 2
        left = x(arm["low"]) if arm["low"] is not None else _LEFT
        right = x(arm["high"]) if arm["high"] is not None else _WIDTH - _RIGHT
        parts += [
            f'<text x="16" y="{y + 4:.1f}">{escape(arm["arm"])}</text>',
            (
                f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" '
                'stroke="#2563eb" stroke-width="3"/>'
            ),
            f'<circle cx="{x(arm["estimate"]):.1f}" cy="{y:.1f}" r="5" fill="#2563eb"/>',
            (
                f'<text x="{x(arm["estimate"]):.1f}" y="{y - 10:.1f}" text-anchor="middle">'
                f"{arm['estimate']:+.3g}</text>"
            ),
        ]
    if not report["sample_ratio"]["holds"]:
        parts.append(
            f'<text x="16" y="{_TOP + 20}" fill="#b91c1c">no verdict: the arms did not get the '
            f"traffic of their weights</text>"
        )
    elif not arms:
        parts.append(f'<text x="16" y="{_TOP + 20}">nothing was reported of both yet</text>')
    return "\n".join([*parts, "</svg>", ""])
