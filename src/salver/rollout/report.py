"""What the analysis found: numbers and verdicts, as they are stored and shown."""

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """What can be said of one metric."""

    BETTER = "better"
    EQUIVALENT = "equivalent"
    WORSE = "worse"
    NOT_ENOUGH = "not enough data"
    FAILED = "failed"


class MetricReport(msgspec.Struct, frozen=True):
    """One metric, canary against primary.

    ``estimate``, ``low`` and ``high`` are the change of the canary, in the unit of ``margin``:
    a difference, or with ``relative`` a part of the primary's. Each end of the interval holds at
    all times together with a probability of at least ``1 - alpha``; None is unbounded or unknown.
    ``canary`` and ``primary`` are the arms' own values (share, mean, seconds).
    """

    name: str
    verdict: Verdict
    critical: bool
    margin: float
    relative: bool
    alpha: float
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    canary: float | None = None
    primary: float | None = None
    n_canary: int = 0
    n_primary: int = 0
    reason: str = ""
    extra: dict[str, float] = {}


class SampleRatio(msgspec.Struct, frozen=True):
    """Whether the arms got the traffic that their weights say.

    ``expected`` and ``observed`` are the canary's share of requests in all measured blocks.
    """

    holds: bool
    expected: float
    observed: float


class Report(msgspec.Struct, frozen=True):
    """Everything that the judge looks at.

    ``requests`` are those that the canary was asked for in measured blocks, answers from memory
    aside, and ``step_requests`` those of the newest block.
    """

    warm: bool
    requests: int
    step_requests: int
    sample_ratio: SampleRatio
    metrics: tuple[MetricReport, ...]
