"""Takes what callers report of answers: finds the arm in the id, and counts each report once."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from salver.control.database import DatabaseThread, in_batches
from salver.core.clock import Clock
from salver.core.errors import (
    EndpointNotFound,
    FeedbackDiffers,
    FeedbackExpired,
    InvalidRequest,
    RequestNotFound,
    SalverError,
)
from salver.core.feedback import Bounds, Problem, Reported, Taken
from salver.core.ids import RequestIds
from salver.core.names import check_name
from salver.registry.feedback import FeedbackStore, Outcome
from salver.registry.state import StateStore

_MAX_METRIC_CHARS = 64
_MAX_VALUE = 1e9
"""Squares of larger ones would soon leave nothing of the others in a sum."""
_MILLISECOND_NS = 1_000_000
_DAY_MS = 86_400_000
_AHEAD_MS = 60_000


class Limit(NamedTuple):
    """Bounds of a metric, of answers given in weight epochs above ``after`` and below ``until``.

    An ``until`` of 0 is none.
    """

    bounds: Bounds
    after: int = -1
    until: int = 0

    def hold(self, outcome: Outcome) -> bool:
        """Tell whether a value is as it has to be, if it has to."""
        epoch = outcome.weight_epoch
        is_meant = self.after < epoch and not 0 < self.until <= epoch
        return not is_meant or self.bounds.hold(outcome.value)


class Wanted(msgspec.Struct, frozen=True):
    """The metrics of an endpoint that somebody reads, and the limits of those that have any."""

    names: frozenset[str] = frozenset()
    limits: Mapping[str, tuple[Limit, ...]] = {}


def _nobody() -> dict[str, Wanted]:
    return {}


class Feedback:
    """Checks and keeps reports. Values are finite numbers; an id counts for ``max_age_days``.

    ``wanted`` tells by endpoint which metrics are read, on the database's thread.
    """

    def __init__(
        self,
        store: FeedbackStore,
        state: StateStore,
        database: DatabaseThread,
        ids: RequestIds,
        clock: Clock,
        max_age_days: float,
    ) -> None:
        self.store = store
        self._state = state
        self._database = database
        self._ids = ids
        self._clock = clock
        self._max_age_ms = round(max_age_days * _DAY_MS)
        self.wanted: Callable[[], dict[str, Wanted]] = _nobody

    async def take(self, endpoint: str, reports: Sequence[Reported | SalverError]) -> Taken:
        """Keep the good ones of several reports and say what is wrong with the others.

        A report that was taken before changes nothing; one that says something else is refused.
        Those that could not even be read are given as their errors. Raises ``EndpointNotFound``.
        """
        (taken,) = await self.take_each(endpoint, [reports])
        return taken

    async def take_each(
        self, endpoint: str, calls: Sequence[Sequence[Reported | SalverError]]
    ) -> list[Taken]:
        """Do with the reports of several calls what ``take`` does with each, in one transaction."""
        spec, everything = await self._database(
            lambda: (self._state.endpoint(endpoint), self.wanted())
        )
        wanted = everything.get(endpoint, Wanted())
        if spec is None:
            raise EndpointNotFound(f"no endpoint {endpoint!r}; see 'salver get endpoints'")
        now_ms = self._clock.unix_ns() // _MILLISECOND_NS
        outcomes: list[Outcome] = []
        places: list[tuple[_Ledger, int]] = []
        ledgers = [_Ledger() for _ in calls]
        for ledger, reports in zip(ledgers, calls, strict=True):
            for number, report in enumerate(reports, 1):
                try:
                    outcome = self._outcome(endpoint, report, now_ms)
                    _check(outcome, wanted, endpoint)
                    outcomes.append(outcome)
                    places.append((ledger, number))
                except SalverError as error:
                    ledger.problems.append(Problem(number, error.code, error.message))
        before = await self._database(
            lambda: self.store.take(endpoint, outcomes, now_ms, wanted.names)
        )
        for index, (ledger, number) in enumerate(places):
            ledger.note(number, before.get(index), outcomes[index].value)
        return [ledger.taken() for ledger in ledgers]

    async def forget_old(self) -> int:
        """Forget reports of answers that nothing can be reported of any more, and unread sums."""
        oldest = self._clock.unix_ns() // _MILLISECOND_NS - self._max_age_ms

        def sums(most: int) -> int:
            wanted = {(name, metric) for name, one in self.wanted().items() for metric in one.names}
            return self.store.forget_sums(oldest, most, wanted)

        count = await in_batches(self._database, lambda most: self.store.forget(oldest, most))
        await in_batches(self._database, sums)
        return count

    def _outcome(self, endpoint: str, report: Reported | SalverError, now_ms: int) -> Outcome:
        if isinstance(report, SalverError):
            raise report
        check_name(report.metric, "metric")
        if len(report.metric) > _MAX_METRIC_CHARS:
            raise InvalidRequest(f"a metric's name has at most {_MAX_METRIC_CHARS} characters")
        if not (math.isfinite(report.value) and abs(report.value) <= _MAX_VALUE):
            raise InvalidRequest(f"a value is a number from {-_MAX_VALUE:g} to {_MAX_VALUE:g}")
        request_id = report.request_id.lower()
        sealed = self._ids.unseal(request_id, endpoint)
        if sealed is not None:
            made_ms, arm = sealed.unix_ms, (sealed.version, sealed.weight_epoch, sealed.place)
        elif self._ids.verify(request_id):
            made_ms, arm = self._ids.made_unix_ms(request_id), (0, 0, -1)
        else:
            raise RequestNotFound(
                f"endpoint {endpoint!r} has answered no request {request_id[:80]!r}; send what the "
                "answer's x-salver-request-id said"
            )
        age_ms = now_ms - made_ms
        if age_ms > self._max_age_ms or age_ms < -_AHEAD_MS:
            days = self._max_age_ms / _DAY_MS
            raise FeedbackExpired(
                f"the answer is not of the last {days:g} days (control.feedback_days)"
            )
        return Outcome(request_id, report.metric, report.value, *arm, answered_unix_ms=made_ms)


def _check(outcome: Outcome, wanted: Wanted, endpoint: str) -> None:
    """Raise ``InvalidRequest`` for a value that would spoil what is compared."""
    for limit in wanted.limits.get(outcome.metric, ()):
        if not limit.hold(outcome):
            raise InvalidRequest(
                f"{outcome.value:g} is refused: a rollout or experiment of {endpoint!r} compares "
                f"{outcome.metric!r} by values {limit.bounds}; report others under another name"
            )


class _Ledger:
    """What came of the reports of one call."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._fresh = self._repeated = 0

    def note(self, number: int, before: float | InvalidRequest | None, value: float) -> None:
        """Count a report of which ``before`` was known, None for nothing; or its refusal."""
        if before is None:
            self._fresh += 1
        elif isinstance(before, InvalidRequest):
            self.problems.append(Problem(number, before.code, before.message))
        elif before == value:
            self._repeated += 1
        else:
            text = f"{before:g} was reported of this answer before, not {value:g}"
            self.problems.append(Problem(number, FeedbackDiffers.code, text))

    def taken(self) -> Taken:
        """Return all of it, with the problems in the order of their numbers."""
        self.problems.sort(key=lambda problem: problem.number)
        return Taken(self._fresh, self._repeated, tuple(self.problems))
