"""What is known of a rollout's canary, from the counts that gateways send."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from salver.observe.merge import Key, Totals
from salver.observe.outcomes import FAILURES
from salver.rollout import counts
from salver.rollout.counts import Metric, Share
from salver.rollout.machine import ADVANCE, HOLD, PROMOTE, ROLL_BACK, Finding, Rollout

_REQUESTS, _SECONDS = "salver_requests_total", "salver_request_seconds"
_OK = "ok"
# What a caller did wrong, or what there was no room for, says nothing of a version.
_HARM = FAILURES | {"deadline_exceeded", "non_finite_output"}


class Look(NamedTuple):
    """The canary's requests in all, and what a judge says, None while there is nothing to say."""

    requests: int
    finding: Finding | None


class CountsAnalyst:
    """Compares shares of failed and of slow requests within times of constant weight."""

    def look(self, rollout: Rollout, totals: Totals) -> Look:
        """Return what is known; may raise, which pauses the rollout."""
        arms = {
            variant: _Arm(rollout, variant, totals) for variant in (rollout.target, rollout.source)
        }
        canary, primary = arms[rollout.target], arms[rollout.source]
        epochs = canary.epochs & primary.epochs
        metrics = [
            counts.compare(
                "error_rate",
                canary.errors(epochs),
                primary.errors(epochs),
                counts.ERROR_MARGIN,
                critical=True,
            ),
            _slow(canary, primary, epochs),
        ]
        return Look(canary.requests, _finding(rollout, metrics))


class _Arm:
    """One variant's counts by weight epoch, since its rollout began."""

    def __init__(self, rollout: Rollout, variant: str, totals: Totals) -> None:
        self._codes: dict[int, dict[str, int]] = {}
        self._seconds: dict[int, tuple[int, ...]] = {}
        for key, value in totals.counters.items():
            epoch = _epoch(key, _REQUESTS, rollout, variant)
            if epoch:
                codes = self._codes.setdefault(epoch, {})
                codes[key[1][4]] = codes.get(key[1][4], 0) + int(value)
        for key, (buckets, _) in totals.histograms.items():
            epoch = _epoch(key, _SECONDS, rollout, variant)
            if epoch:
                self._seconds[epoch] = buckets

    @property
    def epochs(self) -> set[int]:
        return set(self._codes)

    @property
    def requests(self) -> int:
        return sum(self._errors(epoch).total for epoch in self._codes)

    def errors(self, epochs: Iterable[int]) -> Share:
        share = Share(0, 0)
        for epoch in epochs:
            share = share.plus(self._errors(epoch))
        return share

    def seconds(self, epochs: Iterable[int]) -> list[int]:
        rows = [self._seconds[epoch] for epoch in epochs if epoch in self._seconds]
        return [sum(column) for column in zip(*rows, strict=True)]

    def _errors(self, epoch: int) -> Share:
        codes = self._codes[epoch]
        failed = sum(count for code, count in codes.items() if code in _HARM)
        return Share(failed, failed + codes.get(_OK, 0))


def _epoch(key: Key, name: str, rollout: Rollout, variant: str) -> int:
    """Return the weight epoch of a series of this variant in this rollout, 0 for any other."""
    if key[0] != name:
        return 0
    _, endpoint, of, epoch = key[1][:4]
    if endpoint != rollout.endpoint or of != variant:
        return 0
    return int(epoch) if int(epoch) > rollout.first_epoch else 0


def _slow(canary: _Arm, primary: _Arm, epochs: set[int]) -> Metric:
    """Compare the shares of requests above the bucket that holds the primary's 95th percentile."""
    ours, theirs = canary.seconds(epochs), primary.seconds(epochs)
    total, seen, place = sum(theirs), 0, 0
    for place, count in enumerate(theirs):  # noqa: B007 - where it stops is the answer
        seen += count
        if seen >= counts.QUANTILE * total:
            break
    one, other = (Share(sum(row[place + 1 :]), sum(row)) for row in (ours, theirs))
    return counts.compare("slow_requests", one, other, counts.SLOW_MARGIN, critical=False)


def _finding(rollout: Rollout, metrics: list[Metric]) -> Finding:
    evidence: dict[str, Any] = {"metrics": [metric.line() for metric in metrics]}
    worse = [metric for metric in metrics if metric.verdict == counts.WORSE]
    if worse:
        first = worse[0]
        reason = (
            f"{first.name} is worse by {first.estimate:.3g}, at least {first.low:.3g} where "
            f"{first.margin:g} is tolerated"
        )
        return Finding(ROLL_BACK if first.critical else "pause", reason, evidence)
    if not metrics[0].n_canary or not metrics[0].n_primary:
        return Finding(HOLD, "nothing to compare yet", evidence)
    return Finding(PROMOTE if rollout.is_last else ADVANCE, "no metric is worse", evidence)
