"""Reports that callers of the data port sent, stored and answered then, in turns with the rest."""

import asyncio
from collections import deque

from salver.control.feedback import Feedback
from salver.core.context import DEFAULT_TENANT
from salver.core.errors import (
    EndpointNotFound,
    InvalidRequest,
    Overloaded,
    SalverError,
    UnsupportedOperation,
    fault_of,
)
from salver.core.feedback import MAX_RELAYED, Taken
from salver.core.names import check_name
from salver.observe.logs import get_logger
from salver.wire.connection import Connection
from salver.wire.messages import Fail, Report, ReportTaken

log = get_logger(__name__)

MAX_WAITING = 256
_MAX_WAITING_LINES = 64_000
_RETRY_AFTER_S = 1.0


class Reporter:
    """Keeps reports, of at most 256 calls at once; each is answered on the link it came on.

    Those of one endpoint that wait together share a transaction of at most ``MAX_RELAYED`` reports.
    The next is begun when it has ended, so that whatever else control does with its database takes
    its turn. Who reports is the gateway's word; the rest is checked as the control API does.
    """

    def __init__(self, feedback: Feedback, *, is_on: bool) -> None:
        self._feedback = feedback
        self._is_on = is_on
        self._waiting: deque[tuple[Connection, Report]] = deque()
        self._lines = 0
        self._task: asyncio.Task[None] | None = None

    def __call__(self, connection: Connection, report: Report) -> None:
        """Begin with a report that a gateway sent; never raises."""
        refusal = self._refusal(report)
        if refusal is not None:
            connection.send(_failure(report, refusal))
            return
        self._lines += len(report.reports)
        self._waiting.append((connection, report))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Wait for nothing more; gateways notice that the link is gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _refusal(self, report: Report) -> SalverError | None:
        count = len(report.reports)
        if not self._is_on:
            return UnsupportedOperation(
                "control takes no reports from the data port: 'http.feedback' is off"
            )
        if count > MAX_RELAYED:
            return InvalidRequest(f"{count} reports are over the limit of {MAX_RELAYED} at once")
        if len(self._waiting) >= MAX_WAITING or self._lines + count > _MAX_WAITING_LINES:
            return Overloaded(
                f"{len(self._waiting)} calls with reports are waiting", retry_after_s=_RETRY_AFTER_S
            )
        return None

    async def _work(self) -> None:
        try:
            while self._waiting:
                together = self._next()
                answers = await self._answers([report for _, report in together])
                for (connection, _), answer in zip(together, answers, strict=True):
                    connection.send(answer)
        finally:
            self._task = None

    def _next(self) -> list[tuple[Connection, Report]]:
        """Return what waits longest, and what follows it of the same endpoint as far as it fits."""
        together: list[tuple[Connection, Report]] = []
        lines = 0
        while self._waiting:
            connection, report = self._waiting[0]
            lines += len(report.reports)
            if together and (lines > MAX_RELAYED or _place(report) != _place(together[0][1])):
                break
            self._waiting.popleft()
            self._lines -= len(report.reports)
            # Whoever waited for a link that is gone has been told to send it again.
            if connection.is_open:
                together.append((connection, report))
        return together

    async def _answers(self, reports: list[Report]) -> list[ReportTaken | Fail]:
        if not reports:
            return []
        try:
            taken = await self._take(reports)
        except SalverError as error:
            return [_failure(report, error) for report in reports]
        except Exception as fault:  # a fault of ours must still be answered
            log.exception("reports_failed", request_ids=[report.request_id for report in reports])
            return [_failure(report, fault_of(fault)) for report in reports]
        return [ReportTaken(report.id, one) for report, one in zip(reports, taken, strict=True)]

    async def _take(self, reports: list[Report]) -> list[Taken]:
        tenant, endpoint = _place(reports[0])
        name = check_name(endpoint, "endpoint")
        if tenant != DEFAULT_TENANT:
            raise EndpointNotFound(f"no endpoint {name!r} is deployed")
        return await self._feedback.take_each(name, [report.reports for report in reports])


def _place(report: Report) -> tuple[str, str]:
    return report.tenant, report.endpoint


def _failure(report: Report, error: SalverError) -> Fail:
    return Fail(report.id, error.code, error.message, error.retry_after_s)
