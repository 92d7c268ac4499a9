"""Takes what callers report of answers: finds the arm in the id, and counts each report once."""

import math
from collections.abc import Sequence

import msgspec

from salver.control.database import DatabaseThread
from salver.core.clock import Clock
from salver.core.errors import (
    EndpointNotFound,
    FeedbackDiffers,
    FeedbackExpired,
    InvalidRequest,
    RequestNotFound,
    SalverError,
)
from salver.core.ids import RequestIds
from salver.core.names import check_name
from salver.registry.feedback import FeedbackStore, Outcome
from salver.registry.state import StateStore

DEFAULT_METRIC = "outcome"
_MAX_METRIC_CHARS = 64
_MAX_VALUE = 1e9
"""Squares of larger ones would soon leave nothing of the others in a sum."""
_MILLISECOND_NS = 1_000_000
_DAY_MS = 86_400_000
_AHEAD_MS = 60_000


class Reported(msgspec.Struct, frozen=True):
    """One report as it was sent."""

    request_id: str
    value: float
    metric: str = DEFAULT_METRIC


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one report; ``number`` counts from 1."""

    number: int
    code: str
    error: str


class Taken(msgspec.Struct, frozen=True):
    """How many reports were new, how many were there already, and what is wrong with others."""

    taken: int
    repeated: int
    problems: tuple[Problem, ...]


class Feedback:
    """Checks and keeps reports. Values are finite numbers; an id counts for ``max_age_days``."""

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

    async def take(self, endpoint: str, reports: Sequence[Reported | SalverError]) -> Taken:
        """Keep the good ones of several reports and say what is wrong with the others.

        A report that was taken before changes nothing; one that says something else is refused.
        Those that could not even be read are given as their errors. Raises ``EndpointNotFound``.
        """
        if await self._database(lambda: self._state.endpoint(endpoint)) is None:
            raise EndpointNotFound(f"no endpoint {endpoint!r}; see 'salver get endpoints'")
        now_ms = self._clock.unix_ns() // _MILLISECOND_NS
        outcomes: list[Outcome] = []
        places: list[int] = []
        problems: list[Problem] = []
        for number, report in enumerate(reports, 1):
            try:
                outcomes.append(self._outcome(endpoint, report, now_ms))
                places.append(number)
            except SalverError as error:
                problems.append(Problem(number, error.code, error.message))
        before = await self._database(lambda: self.store.take(endpoint, outcomes, now_ms))
        for index, value in before.items():
            now = outcomes[index].value
            if value != now:
                text = f"{value:g} was reported of this answer before, not {now:g}"
                problems.append(Problem(places[index], FeedbackDiffers.code, text))
        refused = sum(value != outcomes[index].value for index, value in before.items())
        problems.sort(key=lambda problem: problem.number)
        return Taken(len(outcomes) - len(before), len(before) - refused, tuple(problems))

    async def forget_old(self) -> int:
        """Forget reports of answers that nothing can be reported of any more."""
        oldest = self._clock.unix_ns() // _MILLISECOND_NS - self._max_age_ms
        return await self._database(lambda: self.store.forget(oldest))

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
