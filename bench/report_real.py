"""The report's sections on real models: texts, images, and more than can be answered."""

from __future__ import annotations

from bench.results import Overload, Results, image_ratio, text_ratio
from bench.tables import median, table, times

OFFLINE = "offline sorted"


def sections(results: Results) -> list[str]:
    """Return the sections of what was measured."""
    return [_text(results), _image(results), _overload(results)]


def recovered_after_s(one: Overload) -> int | None:
    """Return after how many seconds of normal load nine tenths are answered in time for good."""
    offered = one.after.offered
    shares = [
        good >= 0.9 * due
        for due, good in zip(offered.due_by_second, offered.in_time_by_second, strict=True)
    ]
    if not shares or not shares[-1]:
        return None
    return len(shares) - next(
        (number for number, good in enumerate(reversed(shares)) if not good), len(shares)
    )


def _text(results: Results) -> str:
    rows = [
        [
            name,
            f"{median(found, lambda f: f.answers_per_s):.1f}",
            _ms([f.p50_ms for f in found]),
            _ms([f.p99_ms for f in found]),
            times(text_ratio(results, name, OFFLINE)),
            times(text_ratio(results, name, "triton-dynamic")),
        ]
        for name, found in results.text.items()
    ]
    header = ["server", "answers/s", "p50 ms", "p99 ms", "/ offline sorted", "/ Triton dynamic"]
    title = "## Texts, Poisson arrivals: the most with p99 within 1 s"
    return f"{title}\n\n{table(header, rows)}" if rows else ""


def _ms(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known, lambda value: value):.0f}" if known else "—"


def _image(results: Results) -> str:
    rows = [
        [
            name,
            f"{median(found, lambda value: value):.1f}",
            times(image_ratio(results, name, "onnxruntime")),
        ]
        for name, found in results.image.items()
    ]
    header = ["server", "images/s", "/ bare ONNX Runtime"]
    return f"## Images of 602 KB\n\n{table(header, rows)}" if rows else ""


def _overload(results: Results) -> str:
    rows = [
        [
            name,
            f"{step.times:g} ×",
            f"{step.offered.rate_per_s:.0f}",
            f"{step.offered.in_time_per_s:.1f}",
            _ms([step.offered.accepted_p99_ms]),
            f"{one.bound_ms:.0f}",
            str(step.offered.refused),
            "—"
            if step.offered.refusal_p99_ms is None
            else f"{step.offered.refusal_p50_ms:.1f} / {step.offered.refusal_p99_ms:.1f}",
            f"{step.pss_mb:.0f}",
        ]
        for name, one in results.overload.items()
        for step in [*one.steps, one.after]
    ]
    header = ["server", "load", "offered/s", "in time/s", "accepted p99 ms", "in time is ms"]
    header += ["refused", "refusal p50 / p99 ms", "PSS MB"]
    back = ", ".join(
        f"{name} {'never' if (after := recovered_after_s(one)) is None else f'{after} s'}"
        for name, one in results.overload.items()
    )
    title = "## More images than can be answered"
    note = f"The last row of each server is the load after ten times. Full goodput after: {back}."
    return f"{title}\n\n{table(header, rows)}\n\n{note}" if rows else ""
