"""What `h2load` prints, as figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.failure import BenchError
from bench.h2load import Totals, durations_us, parse, sample

OUTPUT = """\
progress: 100% of clients started
Application protocol: h2c
Main benchmark duration is over for thread #0. Stopping all clients.

finished in {elapsed}, 43224.00 req/s, 5.85MB/s
requests: 86448 total, 86512 started, 86448 done, 86440 succeeded, 8 failed, 0 errored, 0 timeout
status codes: 86440 2xx, 0 3xx, 0 4xx, 8 5xx
traffic: 11.71MB (12275764) total, 1.65MB (1728960) headers (space savings 47.37%), 6.60MB (6915200) data
                     min         max         mean         sd        +/- sd
time for request:       75us     16.75ms      1.34ms      2.20ms    84.99%
"""  # noqa: E501 - as the program prints it


@pytest.mark.parametrize(("elapsed", "seconds"), [("2.01s", 2.01), ("500.00ms", 0.5)])
def test_totals_are_read(elapsed: str, seconds: float) -> None:
    """Time in any unit, answers, failures and the bytes of messages come out of the text."""
    totals = parse(OUTPUT.format(elapsed=elapsed))
    assert totals == Totals(seconds, 86_440, 8, 6_915_200)


def test_output_without_figures_is_shown() -> None:
    """Where h2load could not connect, the error holds what it said."""
    with pytest.raises(BenchError, match="unable to connect"):
        parse("starting benchmark...\nunable to connect\n")


def test_durations_leave_failed_streams_out(tmp_path: Path) -> None:
    """Only answered requests count, sorted by duration."""
    log = tmp_path / "log"
    log.write_text("1795670603895761\t200\t391\n1795670603895762\t-1\t2\n17\t200\t90\n17\t503\t1\n")
    assert durations_us(log) == [90, 391]


def test_answers_without_a_message_are_failed_calls() -> None:
    """A gRPC error has status 200 and no message: the bytes that came tell how many were good."""
    durations = list(range(1, 101))
    found = sample(Totals(2.0, 100, 3, 90 * 80 + 40), durations, 80)
    assert found.requests_per_s == 45.0
    assert found.errors == 13
    assert (found.p50_us, found.p99_us) == (51, 100)


def test_bytes_of_calls_in_flight_do_not_count() -> None:
    """What came for calls that the end cut off makes no call good."""
    found = sample(Totals(1.0, 100, 0, 120 * 80), list(range(100)), 80)
    assert (found.requests_per_s, found.errors) == (100.0, 0)


def test_a_run_of_errors_alone_is_no_figure() -> None:
    """Nothing but errors ends the part instead of standing in a table."""
    with pytest.raises(BenchError, match="no gRPC call succeeded"):
        sample(Totals(1.0, 100, 0, 0), [1, 2], 80)
