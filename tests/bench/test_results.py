"""Ratios, verdicts and the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load import Sample
from bench.machine import Machine
from bench.report import render, write
from bench.results import Results, StartUp, Transfer, p50_ratio, run_counts, throughput_ratio
from bench.targets import verdicts


def make_results(rates: dict[str, list[float]]) -> Results:
    """Results with the same samples at 1, 16 and 64 connections."""
    machine = Machine("cpu", 2, (0, 1), 23.5, "6.0", "3.11.7", 0.0)
    results = Results(machine, "2026-01-01 00:00", rounds=3, seconds=6.0)
    for server, values in rates.items():
        samples = [Sample(rate, 1e6 / rate, 2e6 / rate, 0) for rate in values]
        results.tabular[server] = {count: list(samples) for count in (1, 16, 64)}
    return results


def test_ratios_are_paired_within_a_round() -> None:
    """A machine that slows down between rounds does not move the ratio."""
    results = make_results({"ceiling": [100.0, 50.0, 10.0], "salver": [80.0, 40.0, 8.0]})
    assert throughput_ratio(results, "salver", "ceiling", 16) == pytest.approx(0.8)
    assert p50_ratio(results, "salver", "ceiling", 1) == pytest.approx(1.25)


@pytest.mark.parametrize(("triton", "counts"), [(33.0, True), (34.0, False)])
def test_a_run_counts_from_three_times_triton(triton: float, counts: bool) -> None:
    """Below 3 × Triton the ceiling says that the machine was disturbed."""
    assert run_counts(make_results({"ceiling": [100.0], "triton": [triton]})) is counts


def test_a_run_without_triton_is_not_judged() -> None:
    """Left out is neither yes nor no."""
    assert run_counts(make_results({"ceiling": [100.0]})) is None


def test_verdicts_follow_the_bounds() -> None:
    """Each target is met at its bound, missed beyond it, and unknown where not measured."""
    results = make_results({"ceiling": [100.0], "salver": [70.0], "triton": [28.0]})
    results.startup["salver"] = [StartUp(1.6, 350.0, 500.0, 5, 2.0)]
    words = [verdict.word for verdict in verdicts(results)]
    assert words[:8] == ["met"] * 5 + ["NOT MET", "met", "met"]
    assert set(words[8:]) == {"not measured"}
    assert {v.word for v in verdicts(make_results({}))} == {"not measured"}


def test_the_compiled_wheel_is_held_to_the_same_where_it_was_measured() -> None:
    """Its lines are not there otherwise, and are judged by its own figures."""
    plain = make_results({"ceiling": [100.0], "salver": [60.0]})
    assert not any("compiled" in verdict.what for verdict in verdicts(plain))
    both = make_results({"ceiling": [100.0], "salver": [60.0], "salver-compiled": [70.0]})
    found = {v.what: v.word for v in verdicts(both) if "compiled" in v.what}
    assert found == {
        "Salver, compiled / ceiling, requests/s at c=16": "met",
        "Salver, compiled / ceiling, requests/s at c=64": "met",
        "Salver, compiled / ceiling, p50 at c=1": "met",
    }


def test_verdicts_of_grpc_and_large_bodies_follow_the_bounds() -> None:
    """The same for calls over gRPC in both variants, large tensors and large JSON."""
    results = make_results({})
    for server, rate, p99_us in (("ceiling", 100.0, 1.0), ("salver", 60.0, 9.0)):
        results.grpc[server] = {
            variant: [Sample(rate, 1.0, p99_us, 0)] for variant in ("constant", "changing")
        }
    results.grpc["triton"] = {
        "constant": [Sample(24.0, 1.0, 9.0, 0)],
        "changing": [Sample(25.0, 1.0, 8.0, 0)],
    }
    for figures in (results.binary, results.grpc_binary):
        figures["salver"] = {count: [Transfer(count, 1.0, 2.0, 1.0, 1.0)] for count in (1, 4)}
        figures["triton"] = {count: [Transfer(count, 1.0, count, 1.0, 1.0)] for count in (1, 4)}
    results.json_large = {
        "salver": [Sample(15.0, 1.0, 1.0, 0)],
        "triton": [Sample(10.0, 1.0, 1.0, 0)],
    }
    words = [verdict.word for verdict in verdicts(results)][8:19]
    assert words == [
        *("met", "met", "met"),
        *("met", "NOT MET", "NOT MET"),
        *("met", "NOT MET", "met", "NOT MET"),
        "met",
    ]


def test_verdicts_of_cold_starts_follow_the_bounds() -> None:
    """The medians count, with a warm process and without."""
    results = make_results({})
    results.cold = {
        "own process, warm": [0.1, 0.15, 9.0],
        "own process, started anew": [0.1, 1.1, 1.2],
    }
    assert [v.word for v in verdicts(results) if "cold model" in v.what] == [
        "met",
        "NOT MET",
    ]
    assert "1100" in render(results)


def test_report_counts_failed_calls() -> None:
    """Calls over gRPC that failed stand in the server's row, beside its ratios."""
    results = make_results({})
    results.grpc["ceiling"] = {"changing": [Sample(200.0, 10.0, 20.0, 0)]}
    results.grpc["salver"] = {"changing": [Sample(100.0, 10.0, 20.0, 7)] * 2}
    (row,) = [line for line in render(results).splitlines() if "| salver" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["changing", "salver", "100", "0.010", "0.020", "14", "0.50", "—"]


def test_report_names_failed_requests(tmp_path: Path) -> None:
    """A server that failed requests is named, in the file as on the screen."""
    results = make_results({"ceiling": [100.0], "triton": [20.0]})
    assert "No request failed" in render(results)
    results.tabular["triton"][16].append(Sample(1.0, 1.0, 1.0, 7))
    page = write(results, tmp_path, "x")
    assert "Failed requests: triton 7." in page.read_text()
    assert page.with_suffix(".json").is_file()
