"""Gathers usual requests into cohorts, and answers those.

Only messages come here whose head was read before and says nothing unusual. Those of one turn of
the loop leave together. Off with the setting ``http.gather``; both ways give the same answers.
"""

import asyncio

from salver.core.cohort import Cohort, inputs_of, many_of
from salver.core.context import Principal
from salver.core.errors import SalverError, fault_of
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest, RequestForm
from salver.core.settings import HttpSettings
from salver.gateway.http.message import HttpMessage
from salver.gateway.oip.decode import Decoded, decode_member
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.lot import Lot
from salver.gateway.oip.reading import Reading, Target, reading_of
from salver.observe.logs import get_logger

log = get_logger(__name__)

_MAX_LOTS = 1024


def gathers(settings: HttpSettings) -> bool:
    """Tell whether the settings want requests gathered, and leave their JSON to the fast ways."""
    return settings.gather and settings.json_mode == "auto"


class Gatherer:
    """Takes usual messages and sends them on together."""

    def __init__(self, inference: Inference, ids: RequestIds, settings: HttpSettings) -> None:
        self._inference = inference
        self._many = many_of(inference.handler)
        self._ids = ids
        self._settings = settings
        self._lots: dict[tuple[Target, Principal, RequestForm], Lot] = {}
        self._open: dict[Lot, None] = {}
        self._is_due = False
        self._alone = True
        self._reading: Reading | None = None
        self._form: RequestForm | None = None
        self._lot: Lot | None = None

    def add(self, message: HttpMessage, reading: Reading) -> None:
        """Answer a message, now if nobody else asks, else together with others."""
        if self._alone and not self._open and not self._inference.open_count:
            self._single(message, reading)
            return
        member = decode_member(message.body, self._settings)
        if member is None:
            self._single(message, reading)
            return
        form, payload, caller_id = member
        # Neighbours mostly have everything in common, which identities tell quickly.
        if form is self._form and reading is self._reading and self._lot is not None:
            lot = self._lot
        else:
            lot = self._find_lot(reading, form)
        if lot not in self._open:
            self._open[lot] = None
            if not self._is_due:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._end_of_turn)
        if reading.traceparent is not None:
            lot.is_traced = True
        message.on_gone = lot.on_left
        lot.messages.append(message)
        lot.payloads.append(payload)
        lot.caller_ids.append(caller_id)
        if len(lot.messages) >= lot.limit:
            self._flush([lot])

    def _find_lot(self, reading: Reading, form: RequestForm) -> Lot:
        key = (reading.target, reading.principal, form)
        lot = self._lots.get(key)
        if lot is None:
            if len(self._lots) >= _MAX_LOTS:
                self._lots = {known: one for known, one in self._lots.items() if one.messages}
            lot = self._lots[key] = Lot(self._inference, *key)
        self._reading, self._form, self._lot = reading, form, lot
        return lot

    def _end_of_turn(self) -> None:
        self._is_due = False
        if self._open:
            self._flush(list(self._open))

    def _flush(self, lots: list[Lot]) -> None:
        """Send what was gathered in some lots on its way."""
        for lot in lots:
            self._open.pop(lot, None)
        # Who asks one by one need not wait for company that does not come.
        self._alone = not self._open and len(lots) == 1 and len(lots[0].messages) <= 1
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
            if lot.messages:
                self._singles(lot)

    def _singles(self, lot: Lot) -> None:
        """Let those that cannot be a cohort go on one by one."""
        messages, payloads, caller_ids = lot.take()
        for message, payload, caller_id in zip(messages, payloads, caller_ids, strict=True):
            inputs = inputs_of(lot.form, payload)
            name, version = lot.target
            request = InferenceRequest(name, inputs, version, form=lot.form)
            self._single(message, reading_of(message), Decoded(request, caller_id))

    def _single(
        self, message: HttpMessage, reading: Reading, decoded: Decoded | None = None
    ) -> None:
        message.on_gone = None
        message.request_id = self._ids.make()
        self._inference(message, reading, decoded)


def _refuse(cohorts: list[Cohort], error: SalverError) -> None:
    """Answer what a handler's fault left with nobody."""
    for cohort in cohorts:
        if not cohort.is_apart and cohort.when_apart is None:
            for _, _, responder in cohort.take_apart():
                responder.fail(error)
