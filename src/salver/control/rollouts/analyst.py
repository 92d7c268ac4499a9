"""What is known of a rollout's new version, by what its strategy lets it be compared."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from salver.control.database import DatabaseThread
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.judging import (
    KAYENTA,
    WARM_UP,
    columns_of,
    finding,
    is_warm_up,
    judge_policy,
    read_analysis,
)
from salver.control.rollouts.lane import Lane
from salver.control.rollouts.outcomes import wanted_of, with_feedback
from salver.core.rollouts import BLUE_GREEN
from salver.observe.merge import Key, Totals
from salver.registry.feedback import FeedbackStore
from salver.rollout import counts
from salver.rollout.analysis import asks_plugins
from salver.rollout.columns import Columns, encode_columns
from salver.rollout.counts import Share
from salver.rollout.evidence import Observed
from salver.rollout.gaps import Gaps
from salver.rollout.judge import of_copies
from salver.rollout.machine import HOLD, ROLL_BACK, Finding, Rollout
from salver.rollout.report import Report
from salver.rollout.series import Slices, cut
from salver.rollout.tally import REQUESTS

_COPIES, _SECONDS = "salver_shadow_copies_total", "salver_shadow_seconds"
_AGREES, _DIFFERS, _FAILED, _DROPPED = "agrees", "differs", "failed", "dropped"
_SHADOW, _PRIMARY = "shadow", "primary"


class Unasked(NamedTuple):
    """A report in which metrics of plug-ins are missing, and what they are to be computed from."""

    report: Report
    observed: Sequence[Observed]


class Look(NamedTuple):
    """The new version's requests in all, what a judge says, and what shall be counted from now on.

    ``columns`` is as a plan carries it. What is ``unasked`` has no say in the finding yet. ``gaps``
    are what the rollout's were when it began.
    """

    requests: int
    finding: Finding | None
    columns: bytes = b""
    unasked: Unasked | None = None
    gaps: Gaps = Gaps()


class Analyst:
    """Compares by the evidence of gateways, blue-green versions by what became of copies."""

    def __init__(
        self, books: EvidenceBooks, reported: FeedbackStore, database: DatabaseThread
    ) -> None:
        self._books = books
        self._reported = reported
        self._database = database

    async def look(self, rollout: Rollout, totals: Totals, in_thread: Lane) -> Look:
        """Return what is known; may raise, which pauses the rollout.

        ``in_thread`` is where what takes long is done. Plug-ins are not asked: harm that Salver's
        own metrics show must not wait for them.
        """
        if rollout.policy.strategy == BLUE_GREEN:
            return _of_copies(rollout, totals)
        page = self._books.page(rollout.endpoint)
        # Betting on thousands of segments takes longer than the loop may stand still.
        counted = await in_thread(page.observed)
        requests = sum(int(each.canary.rows[:, REQUESTS].sum()) for each in counted)
        observed = [each for each in counted if not rollout.gaps.has(each.block.epoch)]
        if wanted := wanted_of(observed):
            endpoint, reported = rollout.endpoint, self._reported
            sums = await self._database(
                lambda: {name: reported.sums(endpoint, name, epochs) for name, epochs in wanted}
            )
            observed = with_feedback(rollout, observed, sums)
        slices = await self._slices(rollout, observed, in_thread)
        look = await in_thread(lambda: _of_evidence(rollout, observed, slices))
        if counted and rollout.gaps.has(counted[-1].block.epoch):
            look = _without_news(rollout, look)
        return look._replace(requests=requests, gaps=rollout.gaps)

    async def _slices(
        self, rollout: Rollout, observed: Sequence[Observed], in_thread: Lane
    ) -> Slices | None:
        """Return the time slices, with what has come; None where nobody asks for them."""
        own = read_analysis(rollout.policy.analysis)
        if own.method != KAYENTA:
            return None
        before, specs = self._books.slices(rollout.endpoint), judge_policy(rollout.policy).metrics
        slices = await in_thread(
            lambda: cut(before, observed, specs, rollout.exposed_s, own.slice_s, len(rollout.gaps))
        )
        self._books.cut(rollout.endpoint, rollout.number, slices)
        return slices


def _of_evidence(rollout: Rollout, observed: Sequence[Observed], slices: Slices | None) -> Look:
    judged = judge_policy(rollout.policy)
    report, found = finding(rollout, judged, observed, slices, plugins=False)
    is_harmful, unasked = found.kind == ROLL_BACK, None
    if asks_plugins(report, judged) and not is_harmful:
        unasked = Unasked(report, observed)
    if all(each.block.warmup for each in observed):
        unasked = None
        found = Finding(HOLD, "the canary is warming up", found.evidence)
    return Look(0, found, _columns(rollout, observed, is_warm=report.warm), unasked)


def _without_news(rollout: Rollout, look: Look) -> Look:
    """Return what is said while all that comes is left out: only harm seen before still counts."""
    assert look.finding is not None
    if look.finding.kind == ROLL_BACK:
        return look
    why = f"nothing was counted since {rollout.source}, the primary, is back"
    if rollout.gaps.since:
        why = f"{rollout.source}, the primary, cannot answer, and nothing is compared meanwhile"
    return look._replace(finding=Finding(HOLD, why, look.finding.evidence), unasked=None)


def _columns(rollout: Rollout, observed: Sequence[Observed], *, is_warm: bool) -> bytes:
    """Return what shall be counted from now on; after a gap in a weight epoch of its own."""
    columns = WARM_UP
    if rollout.columns:
        columns = msgspec.msgpack.decode(rollout.columns, type=Columns)
        if is_warm_up(columns) and is_warm:
            usual = np.sum([each.primary.bins for each in observed], axis=0)
            columns = columns_of(rollout.policy, judge_policy(rollout.policy), usual)
    return encode_columns(msgspec.structs.replace(columns, part=len(rollout.gaps.over)))


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
    decision = of_copies(*metrics)
    return Look(copies, Finding(decision.kind.value, decision.reason, evidence))


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
