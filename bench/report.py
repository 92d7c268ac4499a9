"""The report of one run: Markdown that also reads as plain text."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from bench.results import COUNTS_AT, HIGH_LOAD, Results, run_counts, throughput_ratio
from bench.targets import verdicts

T = TypeVar("T")


def render(results: Results) -> str:
    """The whole report."""
    sections = [_head(results), _tabular(results), _binary(results), _startup(results)]
    return "\n\n".join(text for text in [*sections, _targets(results)] if text) + "\n"


def write(results: Results, folder: Path, name: str) -> Path:
    """Write `<name>.json` and `<name>.md`; returns the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(dataclasses.asdict(results), indent=1)
    (folder / f"{name}.json").write_text(data + "\n")
    page = folder / f"{name}.md"
    page.write_text(render(results))
    return page


def _head(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return (
        f"# Run of {results.started}\n\n"
        f"{machine.cpu}, {machine.cores} cores (all processes and the load generator on cores "
        f"{', '.join(map(str, machine.pinned))}), {machine.memory_gib} GiB, "
        f"Linux {machine.kernel}, Python {machine.python}, load before the run {machine.load_1m}. "
        f"{results.rounds} interleaved rounds of {results.seconds:g} s; medians over the rounds, "
        f"ratios paired within each round. Versions: {versions}."
    )


def _tabular(results: Results) -> str:
    if not results.tabular:
        return ""
    rows = []
    counts = sorted({count for by_count in results.tabular.values() for count in by_count})
    for count in counts:
        for server, by_count in results.tabular.items():
            samples = by_count.get(count, [])
            rows.append(
                [
                    str(count),
                    server,
                    f"{_median(samples, lambda s: s.requests_per_s):,.0f}",
                    f"{_median(samples, lambda s: s.p50_us) / 1e3:.3f}",
                    f"{_median(samples, lambda s: s.p99_us) / 1e3:.3f}",
                    _times(throughput_ratio(results, server, "ceiling", count)),
                    _times(throughput_ratio(results, server, "triton", count)),
                ]
            )
    header = ["connections", "server", "requests/s", "p50 ms", "p99 ms", "/ ceiling", "/ Triton"]
    notes = " ".join(part for part in (_counts(results), _errors(results)) if part)
    return f"## One row per request, JSON\n\n{_table(header, rows)}\n\n{notes}"


def _errors(results: Results) -> str:
    """Name the servers that failed requests."""
    sums = {
        server: sum(sample.errors for samples in by_count.values() for sample in samples)
        for server, by_count in results.tabular.items()
    }
    failed = [f"{server} {count}" for server, count in sums.items() if count]
    return f"Failed requests: {', '.join(failed)}." if failed else "No request failed."


def _counts(results: Results) -> str:
    counts = run_counts(results)
    word = {True: "yes", False: "no", None: "not known (the ceiling or Triton was left out)"}
    ratios = ", ".join(
        f"{_times(throughput_ratio(results, 'ceiling', 'triton', count))} at c={count}"
        for count in HIGH_LOAD
    )
    return f"Run counts (ceiling ≥ {COUNTS_AT:g} × Triton): **{word[counts]}** ({ratios})."


def _binary(results: Results) -> str:
    if not results.binary:
        return ""
    rows = []
    for server, by_count in results.binary.items():
        for count, figures in by_count.items():
            rows.append(
                [
                    str(count),
                    server,
                    f"{_median(figures, lambda f: f.gb_per_s):.2f}",
                    f"{_median(figures, lambda f: f.requests_per_s):.1f}",
                    f"{_median(figures, lambda f: f.p50_ms):.1f}",
                    f"{_median(figures, lambda f: f.p99_ms):.1f}",
                ]
            )
    header = ["connections", "server", "GB/s in + out", "requests/s", "p50 ms", "p99 ms"]
    title = "## 32 × 3 × 224 × 224 FP32, binary, identity model"
    return f"{title}\n\n" + _table(header, sorted(rows))


def _startup(results: Results) -> str:
    if not results.startup:
        return ""
    rows = [
        [
            server,
            f"{_median(figures, lambda f: f.first_answer_s):.2f}",
            f"{_median(figures, lambda f: f.pss_mb):.0f}",
            f"{_median(figures, lambda f: f.rss_mb):.0f}",
            f"{_median(figures, lambda f: f.processes):.0f}",
            _seconds([f.recovery_s for f in figures if f.recovery_s is not None]),
        ]
        for server, figures in results.startup.items()
    ]
    header = [
        "server",
        "first answer s",
        "PSS MB",
        "sum of RSS MB",
        "processes",
        "back after the worker's death s",
    ]
    return "## Start-up with one model\n\n" + _table(header, rows)


def _targets(results: Results) -> str:
    rows = [
        [
            verdict.what,
            "—" if verdict.value is None else f"{verdict.value:.2f}",
            verdict.wanted,
            verdict.word,
        ]
        for verdict in verdicts(results)
    ]
    return "## Targets\n\n" + _table(["target", "measured", "wanted", "verdict"], rows)


def _median(items: Sequence[T], value: Callable[[T], float]) -> float:
    return statistics.median([value(item) for item in items]) if items else float("nan")


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "—"


def _times(ratio: float | None) -> str:
    return "—" if ratio is None else f"{ratio:.2f}"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
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
