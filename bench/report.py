"""The report of one run: Markdown that also reads as plain text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench import report_hosting, report_real
from bench.goodput_plot import goodput_plot
from bench.load import Sample
from bench.results import (
    COUNTS_AT,
    GRPC_VARIANTS,
    HIGH_LOAD,
    JSON_LARGE_CONNECTIONS,
    Results,
    Transfer,
    grpc_ratio,
    json_large_ratio,
    run_counts,
    throughput_ratio,
)
from bench.tables import median, seconds, table, times
from bench.targets import verdicts

TENSOR = "32 × 3 × 224 × 224 FP32"


def render(results: Results) -> str:
    """The whole report."""
    sections = [
        _head(results),
        _tabular(results),
        _grpc(results),
        _transfers(f"{TENSOR}, binary, identity model", results.binary),
        _transfers(f"{TENSOR} over gRPC, identity model", results.grpc_binary),
        _json_large(results),
        _startup(results),
        _cold(results),
        _rollback(results),
        *report_real.sections(results),
        *report_hosting.sections(results),
    ]
    return "\n\n".join(text for text in [*sections, _targets(results)] if text) + "\n"


def write(results: Results, folder: Path, name: str) -> Path:
    """Write `<name>.json`, `<name>.md` and, of an overload, `<name>.svg`; returns the second."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(dataclasses.asdict(results), indent=1)
    (folder / f"{name}.json").write_text(data + "\n")
    if results.overload:
        (folder / f"{name}.svg").write_text(goodput_plot(results.overload))
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
                    f"{median(samples, lambda s: s.requests_per_s):,.0f}",
                    f"{median(samples, lambda s: s.p50_us) / 1e3:.3f}",
                    f"{median(samples, lambda s: s.p99_us) / 1e3:.3f}",
                    times(throughput_ratio(results, server, "ceiling", count)),
                    times(throughput_ratio(results, server, "triton", count)),
                ]
            )
    header = ["connections", "server", "requests/s", "p50 ms", "p99 ms", "/ ceiling", "/ Triton"]
    samples_by_server = {
        server: [sample for samples in by_count.values() for sample in samples]
        for server, by_count in results.tabular.items()
    }
    notes = f"{_counts(results)} {_errors(samples_by_server)}"
    return f"## One row per request, JSON\n\n{table(header, rows)}\n\n{notes}"


def _errors(samples: dict[str, list[Sample]]) -> str:
    """Name the servers that failed requests."""
    sums = {server: _failed(taken) for server, taken in samples.items()}
    failed = [f"{server} {count}" for server, count in sums.items() if count]
    return f"Failed requests: {', '.join(failed)}." if failed else "No request failed."


def _failed(samples: Iterable[Sample]) -> int:
    return sum(sample.errors for sample in samples)


def _counts(results: Results) -> str:
    counts = run_counts(results)
    word = {True: "yes", False: "no", None: "not known (the ceiling or Triton was left out)"}
    ratios = ", ".join(
        f"{times(throughput_ratio(results, 'ceiling', 'triton', count))} at c={count}"
        for count in HIGH_LOAD
    )
    return f"Run counts (ceiling ≥ {COUNTS_AT:g} × Triton): **{word[counts]}** ({ratios})."


def _grpc(results: Results) -> str:
    if not results.grpc:
        return ""
    rows = [
        [
            variant,
            server,
            f"{median(samples, lambda s: s.requests_per_s):,.0f}",
            f"{median(samples, lambda s: s.p50_us) / 1e3:.3f}",
            f"{median(samples, lambda s: s.p99_us) / 1e3:.3f}",
            str(_failed(samples)),
            times(grpc_ratio(results, server, "ceiling", variant)),
            times(grpc_ratio(results, server, "triton", variant)),
        ]
        for variant in GRPC_VARIANTS
        for server, by_variant in results.grpc.items()
        if (samples := by_variant.get(variant))
    ]
    header = ["metadata", "server", "calls/s", "p50 ms", "p99 ms", "failed calls"]
    return "## One row per call, gRPC\n\n" + table([*header, "/ ceiling", "/ Triton"], rows)


def _transfers(title: str, figures_by_server: dict[str, dict[int, list[Transfer]]]) -> str:
    rows = [
        [
            str(count),
            server,
            f"{median(figures, lambda f: f.gb_per_s):.2f}",
            f"{median(figures, lambda f: f.requests_per_s):.1f}",
            f"{median(figures, lambda f: f.p50_ms):.1f}",
            f"{median(figures, lambda f: f.p99_ms):.1f}",
        ]
        for server, by_count in figures_by_server.items()
        for count, figures in by_count.items()
    ]
    header = ["connections", "server", "GB/s in + out", "requests/s", "p50 ms", "p99 ms"]
    return f"## {title}\n\n{table(header, sorted(rows))}" if rows else ""


def _json_large(results: Results) -> str:
    rows = [
        [
            server,
            f"{median(samples, lambda s: s.requests_per_s):,.1f}",
            f"{median(samples, lambda s: s.p50_us) / 1e3:.1f}",
            f"{median(samples, lambda s: s.p99_us) / 1e3:.1f}",
            times(json_large_ratio(results, server, "triton")),
        ]
        for server, samples in results.json_large.items()
    ]
    header = ["server", "requests/s", "p50 ms", "p99 ms", "/ Triton"]
    title = f"## 150,528 numbers as JSON there and back, {JSON_LARGE_CONNECTIONS} connections"
    return f"{title}\n\n{table(header, rows)}\n\n{_errors(results.json_large)}" if rows else ""


def _startup(results: Results) -> str:
    if not results.startup:
        return ""
    rows = [
        [
            server,
            f"{median(figures, lambda f: f.first_answer_s):.2f}",
            f"{median(figures, lambda f: f.pss_mb):.0f}",
            f"{median(figures, lambda f: f.rss_mb):.0f}",
            f"{median(figures, lambda f: f.processes):.0f}",
            seconds([f.recovery_s for f in figures if f.recovery_s is not None]),
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
    return "## Start-up with one model\n\n" + table(header, rows)


def _cold(results: Results) -> str:
    if not results.cold:
        return ""
    header = ["where the model runs", "first answer ms, median", "range", "starts"]
    rows = _milliseconds(results.cold)
    return "## From no replica to the first answer\n\n" + table(header, rows)


def _rollback(results: Results) -> str:
    if not results.rollback:
        return ""
    header = ["until", "median ms", "range", "rollbacks"]
    columns = {
        "the last answer of the version that is left": [r.last_answer_s for r in results.rollback],
        "the end of the command": [r.command_s for r in results.rollback],
    }
    return "## From `salver rollback` on\n\n" + table(header, _milliseconds(columns))


def _milliseconds(figures: Mapping[str, list[float]]) -> list[list[str]]:
    """One row each: median, range and count of seconds."""
    return [
        [
            name,
            f"{1e3 * median(values, float):.0f}",
            f"{1e3 * min(values):.0f} to {1e3 * max(values):.0f}",
            str(len(values)),
        ]
        for name, values in figures.items()
    ]


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
    return "## Targets\n\n" + table(["target", "measured", "wanted", "verdict"], rows)
