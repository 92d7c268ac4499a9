"""Gathers the usual requests of one turn of the loop, and sends them on together."""

import asyncio
from typing import Any

from salver.core.cohort import Cohort, many_of
from salver.core.errors import SalverError, fault_of
from salver.core.ids import RequestIds
from salver.core.settings import HttpSettings
from salver.gateway.lot import Lot
from salver.gateway.oip.infer import Inference
from salver.observe.logs import get_logger

log = get_logger(__name__)


def gathers(settings: HttpSettings) -> bool:
    """Tell whether the settings want requests gathered, and leave their JSON to the fast ways."""
    return settings.gather and settings.json_mode == "auto"


class Turn:
    """The lots that were begun in this turn; all protocols share one.

    ``alone`` tells that the last turn had one request.
    """

    def __init__(self, inference: Inference, ids: RequestIds) -> None:
        self._inference = inference
        self._many = many_of(inference.handler)
        self._ids = ids
        self._open: dict[Lot[Any], None] = {}
        self._is_due = False
        self.alone = True

    @property
    def is_quiet(self) -> bool:
        """Tell whether a request should be sent at once, since nobody else asks."""
        return self.alone and not self._open and not self._inference.open_count

    def add(self, lot: Lot[Any], seat: object, payload: bytes, caller_id: str | None) -> None:
        """Put a request into its lot, which is sent at the end of this turn."""
        seats = lot.seats
        if not seats:
            self._open[lot] = None
            if not self._is_due:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._end)
        seats.append(seat)
        lot.payloads.append(payload)
        lot.caller_ids.append(caller_id)
        if len(seats) >= lot.limit:
            self._flush([lot])

    def _end(self) -> None:
        self._is_due = False
        if self._open:
            self._flush(list(self._open))

    def _flush(self, lots: list[Lot[Any]]) -> None:
        """Send what was gathered in some lots on its way."""
        for lot in lots:
            self._open.pop(lot, None)
        # Who asks one by one need not wait for company that does not come.
        self.alone = not self._open and len(lots) == 1 and len(lots[0].seats) <= 1
        cohorts: list[Cohort] = []
        try:
            for lot in lots:
                cohorts += lot.cohorts(self._ids)
            if cohorts:
                self._many(cohorts)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("gathering_failed")
            _refuse(cohorts, fault_of(error))
        for lot in lots:
            if lot.seats:
                for seat, payload, caller_id in zip(*lot.take(len(lot.seats)), strict=True):
                    lot.single(seat, payload, caller_id, self._ids.make())


def _refuse(cohorts: list[Cohort], error: SalverError) -> None:
    """Answer what a handler's fault left with nobody."""
    for cohort in cohorts:
        if not cohort.is_apart and cohort.when_apart is None:
            for _, _, responder in cohort.take_apart():
                responder.fail(error)
