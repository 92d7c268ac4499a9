"""The bet on the assignment: exact over all assignments, and never won by one caller."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from salver.rollout.betting import TILTS, Counts, Sample, bound, estimate, explained, log_evidence
from salver.rollout.tally import Floats

WEIGHT = 0.3
FEW = 8
UNITS = arrays(np.float64, FEW, elements=st.integers(0, 40).map(float))
SHARES = arrays(np.float64, FEW, elements=st.floats(0, 1))


def split(n: Floats, sums: Floats, canary: Any, weight: float = WEIGHT) -> Counts:
    """Return counts whose canary has these segments."""
    return Counts(weight, n * canary, sums * canary, n * ~canary, sums * ~canary)


def assignments(weights: tuple[float, ...]) -> list[tuple[float, tuple[Any, ...]]]:
    """Return all assignments of the segments in blocks of these weights, and their chances.

    A segment's place on the ring decides; it is the canary's in all blocks of higher weight.
    """
    edges = [0.0, *sorted(weights), 1.0]
    chances = np.diff(edges)
    found = []
    for places in itertools.product(range(len(chances)), repeat=FEW):
        chance = float(np.prod(chances[list(places)]))
        positions = np.array([edges[place] for place in places])
        found.append((chance, tuple(positions < weight for weight in weights)))
    return found


@settings(max_examples=10, deadline=None)
@given(UNITS, SHARES, st.booleans())
def test_the_evidence_has_no_mean_above_one(n: Floats, shares: Floats, shrink: bool) -> None:
    """Whatever was counted, the mean over all assignments is at most 1 in either direction."""
    sums = n * shares
    for sign in (1, -1):
        mean = sum(
            chance
            * math.exp(log_evidence(Sample((split(n, sums, canary),), shrink=shrink), 0.0, sign))
            for chance, (canary,) in assignments((WEIGHT,))
        )
        assert mean <= 1.0 + 1e-9


def test_the_evidence_has_no_mean_above_one_over_steps() -> None:
    """Segments that move from the primary to the canary between blocks are one unit still."""
    rng = np.random.default_rng(4)
    weights = (0.2, 0.6)
    cases = assignments(weights)
    for _ in range(2):
        n = rng.integers(1, 30, (2, FEW)).astype(float)
        habits = rng.random(FEW) ** 3
        sums = n * habits
        mean = sum(
            chance
            * math.exp(
                log_evidence(
                    Sample(
                        tuple(
                            split(n[place], sums[place], canary[place], weights[place])
                            for place in (0, 1)
                        )
                    ),
                    0.0,
                    1,
                )
            )
            for chance, canary in cases
        )
        assert mean <= 1.0 + 1e-9


@settings(max_examples=10, deadline=None)
@given(UNITS, SHARES, SHARES, st.floats(-0.5, 0.5))
def test_a_covariate_leaves_the_mean_at_most_one(
    n: Floats, shares: Floats, known: Floats, change: float
) -> None:
    """Whatever was known before, and whatever change the hypothesis says: exactly as valid."""
    for sign in (1, -1):
        mean = 0.0
        for chance, (canary,) in assignments((WEIGHT,)):
            plain = split(n, n * shares + change * n * canary, canary)
            counts = plain._replace(
                canary_x=n * known * canary, primary_x=n * known * ~np.asarray(canary)
            )
            sample = Sample((counts,), events=False, scale=0.3)
            mean += chance * math.exp(log_evidence(sample, change, sign))
        assert mean <= 1.0 + 1e-9


def test_what_a_covariate_explains_is_taken_out() -> None:
    """Values that follow from it leave nothing; one that says nothing changes nothing."""
    rng = np.random.default_rng(3)
    n, known = np.full(FEW, 10.0), rng.random(FEW)
    canary = np.arange(FEW) < FEW // 2
    plain = split(n, n * (2.0 + 3.0 * known), canary)
    (left,) = explained(
        [plain._replace(canary_x=n * known * canary, primary_x=n * known * ~canary)]
    )
    assert (left.canary_sum + left.primary_sum) / n == pytest.approx(2.0 + 3.0 * known.mean())
    flat = plain._replace(canary_x=n * canary, primary_x=n * ~canary)
    (same,) = explained([flat])
    assert same.canary_sum == pytest.approx(plain.canary_sum)
    assert explained([plain]) == [plain]


@given(UNITS, SHARES, st.integers(1, 2**FEW - 2), st.floats(-0.2, 0.2), st.sampled_from((1, -1)))
def test_the_evidence_is_that_of_a_plain_loop(
    n: Floats, shares: Floats, chosen: int, change: float, sign: int
) -> None:
    """Without shrinking, a loop over segments and tilts in plain Python finds the same."""
    canary = np.array([bool(chosen >> place & 1) for place in range(FEW)])
    sample = Sample((split(n, n * shares, canary),), shrink=False)
    found = log_evidence(sample, change, sign)
    if not (n * canary).any() or not (n * ~canary).any():
        assert found == -math.inf
        return
    sums = [float(n[j] * shares[j]) for j in range(FEW)]
    rate = sum(sums) / n.sum()
    total = sum(sums[j] - rate * n[j] for j in range(FEW) if canary[j])
    if found == -math.inf:
        assert sign * (estimate(sample) - change) <= 0
        return
    evidence = 0.0
    for tilt, log_share in zip(sign * TILTS.values, TILTS.logs, strict=True):
        log = log_share + tilt * total
        for j in range(FEW):
            mine = WEIGHT * math.exp(tilt * (sums[j] - rate * n[j]))
            log -= math.log(mine + 1 - WEIGHT)
            if canary[j]:
                step = math.exp(math.copysign(1, change) * tilt)
                after = (mine + 1 - WEIGHT) * step / (mine * step + 1 - WEIGHT)
                log -= n[j] * math.log(1 + abs(change) * (after - 1))
        evidence += math.exp(log)
    assert math.exp(found) == pytest.approx(evidence, rel=1e-6, abs=1e-12)


@given(st.integers(1, 100_000), st.floats(0.001, 0.01))
def test_one_caller_is_one_piece_of_evidence(failures: int, weight: float) -> None:
    """However often one caller's requests fail, the evidence is about one over the weight."""
    n = np.full(100, 20.0)
    n[0] = failures
    sums = np.zeros(100)
    sums[0] = failures
    canary = np.arange(100) == 0
    for shrink in (True, False):
        sample = Sample((split(n, sums, canary, weight),), shrink=shrink)
        assert log_evidence(sample, 0.0, 1) <= -math.log(weight) - 99 * math.log1p(-weight)


@given(UNITS, st.integers(1, 2**FEW - 2))
def test_shrinking_changes_nothing_where_no_caller_comes_twice(n: Floats, chosen: int) -> None:
    """The clever weights are the plain ones when each segment has one unit."""
    once = np.minimum(n, 1.0)
    canary = np.array([bool(chosen >> place & 1) for place in range(FEW)])
    sums = once * np.tile([0.0, 1.0], FEW // 2)
    both = [
        log_evidence(Sample((split(once, sums, canary),), shrink=shrink), 0.0, 1)
        for shrink in (True, False)
    ]
    assert both[0] == both[1]


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_requests_without_keys_are_units_by_themselves(
    canary_n: int, primary_n: int, data: st.DataObject
) -> None:
    """Adding up over segments loses nothing: it is the same as one segment for each request."""
    canary_events = data.draw(st.integers(0, canary_n))
    primary_events = data.draw(st.integers(0, primary_n))
    ratio = data.draw(st.booleans())
    change = data.draw(st.floats(-0.1, 0.1)) if ratio else 0.0
    canary = np.arange(canary_n + primary_n) < canary_n
    order = np.arange(len(canary)) - np.where(canary, 0, canary_n)
    event = np.where(order < np.where(canary, canary_events, primary_events), 1.0, 0.0)
    single = split(np.ones(len(canary)), np.asarray(event, np.float64), canary)
    two = np.array([True, False])
    together = split(
        np.array([canary_n, primary_n], float),
        np.array([canary_events, primary_events], float),
        two,
    )
    for sign in (1, -1):
        expected = log_evidence(Sample((single,), ratio=ratio, shrink=False), change, sign)
        found = log_evidence(Sample((together,), ratio=ratio, alone=True), change, sign)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6) or expected == -math.inf


def independent(
    rng: np.random.Generator, requests: int, canary_rate: float, primary_rate: float
) -> Counts:
    """Return counts of independent requests over 200 segments, half of them the canary's."""
    canary = np.arange(200) < 100
    n = np.bincount(rng.integers(0, 200, requests), minlength=200)
    events = rng.binomial(n, np.where(canary, canary_rate, primary_rate))
    return split(n.astype(float), events.astype(float), canary, 0.5)


def test_the_interval_holds_the_truth_at_all_times() -> None:
    """In 200 runs of 25 looks the true change is refuted no more often than alpha allows."""
    alpha, runs, refuted = 0.1, 200, 0
    for run in range(runs):
        rng = np.random.default_rng((11, run))
        seen = independent(rng, 200, 0.06, 0.05)
        for _ in range(25):
            new = independent(rng, 200, 0.06, 0.05)
            seen = Counts(0.5, *(a + b for a, b in zip(seen[1:5], new[1:5], strict=True)))
            sample = Sample((seen,))
            if max(log_evidence(sample, 0.01, sign) for sign in (1, -1)) >= math.log(2 / alpha):
                refuted += 1
                break
    assert refuted / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize("ratio", [False, True])
def test_the_interval_lies_around_the_estimate_and_shrinks(ratio: bool) -> None:
    """More requests give a narrower interval, and its ends agree with the evidence there."""
    widths = []
    for requests in (500, 5_000, 50_000):
        counts = independent(np.random.default_rng(5), requests, 0.12, 0.1)
        sample = Sample((counts,), ratio=ratio)
        low, high = bound(sample, 1, 0.05), bound(sample, -1, 0.05)
        assert low < estimate(sample) < high
        assert log_evidence(sample, low, 1) >= math.log(20)
        assert log_evidence(sample, high, -1) >= math.log(20)
        inside = (low + estimate(sample)) / 2
        assert log_evidence(sample, inside, 1) < math.log(20)
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    truth = 0.2 if ratio else 0.02
    assert low < truth < high


def test_where_nothing_happened_the_interval_still_ends() -> None:
    """No event in either arm bounds the change from above, more tightly with more requests."""
    highs = []
    for requests in (1_000, 10_000):
        sample = Sample((independent(np.random.default_rng(5), requests, 0.0, 0.0),))
        highs.append(bound(sample, -1, 0.05))
    assert 0.0 < highs[1] < highs[0] < 0.05


def test_without_counts_nothing_is_known() -> None:
    """An arm without requests leaves the whole range open and never raises."""
    empty = np.zeros(10)
    full = np.full(10, 5.0)
    for counts in (
        Counts(0.5, empty, empty, empty, empty),
        Counts(0.5, full, empty, empty, empty),
        Counts(1.0, full, empty, full, empty),
    ):
        sample = Sample((counts,))
        assert log_evidence(sample, 0.0, 1) == -math.inf
        assert (bound(sample, 1, 0.05), bound(sample, -1, 0.05)) == (-1.0, 1.0)
        assert bound(Sample((counts,), ratio=True), -1, 0.05) == math.inf
