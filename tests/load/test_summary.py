"""From requests to figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.bench.figures import Step
from salver.bench.generator import Run
from salver.bench.record import LATE, NO_CONNECTION, OK, PENDING, Record
from salver.bench.summary import Objective, curve, percentiles, quantile, summarise

OBJECTIVE = Objective(0.1, 0.99, 0.99)
_US = 1000


def run_of(requests: list[tuple[int, int, int, int]], first: int = 0) -> Run:
    """Return a run of (due, sent, done, outcome) in microseconds."""
    start_ns = 10**12
    record = Record(np.array([due * _US for due, *_ in requests], dtype=np.int64), start_ns)
    for index, (_, sent, done, outcome) in enumerate(requests):
        record.outcomes[index] = outcome
        record.sent_ns[index] = start_ns + sent * _US if sent else 0
        record.done_ns[index] = start_ns + done * _US if done else 0
    return Run(record, first, len(requests), 5 * 10**8, 10**9)


def step_of(requests: list[tuple[int, int, int, int]], first: int = 0) -> Step:
    """Return the figures of one second of requests."""
    return summarise(run_of(requests, first), 10.0, 1.0, OBJECTIVE)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=300), st.floats(0.001, 1))
def test_percentiles_are_exact(values: list[float], share: float) -> None:
    """A quantile is a measured value that this share does not exceed, as numpy has it."""
    ordered = np.sort(np.array(values))
    found = quantile(ordered, share)
    assert found in values
    assert (ordered <= found).mean() >= share - 1e-9
    exact = float(np.quantile(ordered, share, method="inverted_cdf"))
    position = share * len(values)
    if abs(position - round(position)) > 1e-6:
        assert found == exact


def test_percentiles_by_hand() -> None:
    """Of 1 to 1,000, the named percentiles are what anybody would count."""
    found = percentiles(np.arange(1, 1001, dtype=float))
    assert found is not None
    assert (found.p50, found.p90, found.p95, found.p99) == (500, 900, 950, 990)
    assert (found.p99_9, found.max) == (999, 1000)
    assert percentiles(np.array([])) is None


def test_latency_counts_from_when_a_request_was_due() -> None:
    """A request that is sent late is charged for it; beside it stand service time and lag."""
    step = step_of([(0, 5_000, 6_000, OK)])
    assert step.latency_us is not None
    assert step.service_us is not None
    assert step.generator.lag_us is not None
    assert (step.latency_us.max, step.service_us.max) == (6_000, 1_000)
    assert step.generator.lag_us.max == 5_000
    assert step.generator.cpu_share == 0.5


def test_the_warm_up_is_in_no_figure() -> None:
    """Requests before the first measured one do not count, whatever became of them."""
    slow = (0, 1, 900_000, OK)
    step = step_of([slow, (1, 0, 0, NO_CONNECTION), (2, 3, 12, OK)], first=2)
    assert (step.requests.due, step.requests.good) == (1, 1)
    assert step.latency_us is not None
    assert step.latency_us.max == 10
    assert step.errors == {}


def test_right_but_late_answers_are_not_good() -> None:
    """Goodput holds answers within the objective; those over it are right and not good."""
    step = step_of([(0, 1, 100_000, OK), (0, 1, 100_001, OK)])
    assert (step.requests.ok, step.requests.good) == (2, 1)
    assert (step.rates.ok, step.rates.good) == (2.0, 1.0)
    assert step.objective_share == 0.5
    assert [text.split()[0] for text in step.unmet] == ["goodput", "p99"]


def test_what_an_interruption_left_in_flight_does_not_count() -> None:
    """Pending requests are neither due nor failed."""
    step = step_of([(0, 1, 10, OK), (1, 2, 0, PENDING)])
    assert (step.requests.due, step.requests.failed) == (1, 0)
    assert step.met


@pytest.mark.parametrize(
    ("lag_us", "late", "bottleneck"), [(9_999, 0, False), (10_001, 0, True), (0, 1, True)]
)
def test_the_generator_says_when_it_was_too_slow(lag_us: int, late: int, bottleneck: bool) -> None:
    """A lag over a tenth of the objective, or a request that it could not send, says so."""
    requests = [(0, max(lag_us, 1), lag_us + 10, OK)] + [(0, 0, 0, LATE)] * late
    step = step_of(requests)
    assert step.generator.bottleneck is bottleneck
    assert bool(step.generator.reason) is bottleneck


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=500))
def test_the_curve_rises_from_the_fastest_to_the_slowest(values: list[float]) -> None:
    """Both its percentiles and its latencies never fall; its ends are the extremes."""
    points = np.array(curve(np.array(values)))
    assert (np.diff(points, axis=0) >= 0).all()
    assert points[0][1] == min(values)
    assert points[-1][1] == max(values)
    assert curve(np.array([])) == []
