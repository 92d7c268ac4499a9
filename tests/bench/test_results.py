"""Ratios, verdicts and the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load import Sample
from bench.machine import Machine
from bench.report import render, write
from bench.results import Results, StartUp, p50_ratio, run_counts, throughput_ratio
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
    assert words == ["met"] * 5 + ["NOT MET", "met", "met"]
    assert {v.word for v in verdicts(make_results({}))} == {"not measured"}


def test_report_names_failed_requests(tmp_path: Path) -> None:
    """A server that failed requests is named, in the file as on the screen."""
    results = make_results({"ceiling": [100.0], "triton": [20.0]})
    assert "No request failed" in render(results)
    results.tabular["triton"][16].append(Sample(1.0, 1.0, 1.0, 7))
    page = write(results, tmp_path, "x")
    assert "Failed requests: triton 7." in page.read_text()
    assert page.with_suffix(".json").is_file()
