"""What is known of a rollout's new version, by what its strategy lets it be compared."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from salver.control.database import DatabaseThread
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.judging import (
    WARM_UP,
    columns_of,
    finding,
    judge_policy,
    read_analysis,
)
from salver.control.rollouts.outcomes import wanted_of, with_feedback
from salver.core.rollouts import BLUE_GREEN
from salver.observe.merge import Key, Totals
from salver.registry.feedback import FeedbackStore
from salver.rollout import counts
from salver.rollout.columns import encode_columns
from salver.rollout.counts import Metric, Share
from salver.rollout.evidence import Observed
from salver.rollout.machine import HOLD, PAUSE, PROMOTE, ROLL_BACK, Finding, Rollout
from salver.rollout.tally import REQUESTS

_COPIES, _SECONDS = "salver_shadow_copies_total", "salver_shadow_seconds"
_AGREES, _DIFFERS, _FAILED, _DROPPED = "agrees", "differs", "failed", "dropped"
_SHADOW, _PRIMARY = "shadow", "primary"


class Look(NamedTuple):
    """The new version's requests in all, what a judge says, and what shall be counted from now on.

    ``columns`` is as a plan carries it.
    """

    requests: int
    finding: Finding | None
    columns: bytes = b""


class Analyst:
    """Compares by the evidence of gateways, blue-green versions by what became of copies."""

    def __init__(
        self, books: EvidenceBooks, reported: FeedbackStore, database: DatabaseThread
    ) -> None:
        self._books = books
        self._reported = reported
        self._database = database

    async def look(self, rollout: Rollout, totals: Totals) -> Look:
        """Return what is known; may raise, which pauses the rollout."""
        if rollout.policy.strategy == BLUE_GREEN:
            return _of_copies(rollout, totals)
        page = self._books.page(rollout.endpoint)
        # Betting on thousands of segments takes longer than the loop may stand still.
        observed = await asyncio.to_thread(page.observed)
        if wanted := wanted_of(observed):
            endpoint, reported = rollout.endpoint, self._reported
            sums = await self._database(
                lambda: {name: reported.sums(endpoint, name, epochs) for name, epochs in wanted}
            )
            observed = with_feedback(rollout, observed, sums)
        return await asyncio.to_thread(lambda: _of_evidence(rollout, observed))


def _of_evidence(rollout: Rollout, observed: Sequence[Observed]) -> Look:
    judged = judge_policy(rollout.policy)
    requests = sum(int(each.canary.rows[:, REQUESTS].sum()) for each in observed)
    report, found = finding(rollout, judged, observed)
    if all(each.block.warmup for each in observed):
        found = Finding(HOLD, "the canary is warming up", found.evidence)
    columns = rollout.columns
    if not columns:
        columns = encode_columns(WARM_UP)
    elif columns == encode_columns(WARM_UP) and report.warm:
        usual = np.sum([each.primary.bins for each in observed], axis=0)
        columns = encode_columns(columns_of(rollout.policy, judged, usual))
    return Look(requests, found, columns)


def _of_copies(rollout: Rollout, totals: Totals) -> Look:
    """Judge copies by how many failed, how late they were, and how many answers differ.

    Originals were all answered, so no failure of theirs has to be counted.
    """
    outcomes = _outcomes(rollout, totals)
    copies = sum(outcomes.values())
    own = read_analysis(rollout.policy.analysis)
    differing = Share(
        outcomes.get(_DIFFERS, 0), outcomes.get(_DIFFERS, 0) + outcomes.get(_AGREES, 0)
    )
    failed = counts.compare_with_none(
        "failed_copies",
        Share(outcomes.get(_FAILED, 0), copies),
        counts.ERROR_MARGIN,
        critical=True,
    )
    rows = {of: _seconds(rollout, totals, of) for of in (_SHADOW, _PRIMARY)}
    slow = counts.compare(
        "slow_copies",
        *counts.slower(rows[_SHADOW], rows[_PRIMARY]),
        counts.SLOW_MARGIN,
        critical=False,
    )
    differs = counts.compare_with_none(
        "differing_copies", differing, round(1 - own.min_agreement, 9), critical=False
    )
    metrics = (failed, slow, differs)
    evidence = {"metrics": [each.line() for each in metrics], "copies": outcomes}
    if copies < own.warmup_requests or rollout.exposed_s < own.warmup_s:
        return Look(copies, Finding(HOLD, "the copies are warming up", evidence))
    kind, reason = _verdict_of(metrics)
    return Look(copies, Finding(kind, reason, evidence))


def _verdict_of(metrics: tuple[Metric, Metric, Metric]) -> tuple[str, str]:
    """Return what to do and why: nothing is promoted that was not shown to do no harm."""
    failed, _, differs = metrics
    for metric in metrics:
        if metric.verdict == counts.WORSE:
            return (ROLL_BACK if metric.critical else PAUSE), metric.words()
    if not failed.n_canary:
        return HOLD, "no copy was answered yet"
    if failed.verdict not in (counts.EQUIVALENT, counts.BETTER):
        return HOLD, (
            f"waiting until failed_copies is known to be no worse: at most {failed.high:.3g} of "
            f"{failed.n_canary} copies fail, {failed.margin:g} is tolerated"
        )
    if differs.margin < 1 and differs.estimate is None:
        return PAUSE, "whether the copies' answers agree is not known"
    if (differs.estimate or 0.0) > differs.margin:
        return PAUSE, (
            f"{differs.estimate:.3g} of the copies' answers differ, {differs.margin:g} is tolerated"
        )
    return PROMOTE, "failed_copies is equivalent and the answers agree"


def _outcomes(rollout: Rollout, totals: Totals) -> dict[str, int]:
    """Return how many copies came to which end; dropped ones were never sent."""
    outcomes: dict[str, int] = {}
    for key, value in totals.counters.items():
        if key[0] == _COPIES and _is_of(key, rollout):
            outcomes[key[1][3]] = outcomes.get(key[1][3], 0) + int(value)
    outcomes.pop(_DROPPED, None)
    return outcomes


def _seconds(rollout: Rollout, totals: Totals, of: str) -> list[int]:
    rows: Iterable[tuple[int, ...]] = (
        buckets
        for key, (buckets, _) in totals.histograms.items()
        if key[0] == _SECONDS and _is_of(key, rollout) and key[1][3] == of
    )
    return [sum(column) for column in zip(*rows, strict=True)]


def _is_of(key: Key, rollout: Rollout) -> bool:
    endpoint, variant, epoch = key[1][:3]
    mine = endpoint == rollout.endpoint and variant == rollout.target
    return mine and int(epoch) > rollout.first_epoch


def with_columns(rollout: Rollout, look: Look) -> Rollout:
    """Return a rollout whose gateways count what its analysis asks for."""
    if look.columns == rollout.columns:
        return rollout
    return msgspec.structs.replace(rollout, columns=look.columns)
