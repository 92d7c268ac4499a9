"""Gathers usual messages into cohorts, and answers those.

Only messages come here whose head was read before and says nothing unusual. Off with the setting
``http.gather``; both ways give the same answers.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import repeat
from operator import add
from typing import ClassVar, Final

from salver.core.cohort import Cohort, Piece, inputs_of
from salver.core.context import RequestContext
from salver.core.errors import fault_of
from salver.core.handler import Responder
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest, JointResponse, RequestForm
from salver.core.settings import HttpSettings
from salver.gateway.http.message import OK_TO_ID, OK_TO_LENGTH, HttpMessage
from salver.gateway.lot import Kind, Lot, tell_apart
from salver.gateway.oip.answer import PROTOCOL, Answer, tell, variant_line
from salver.gateway.oip.decode import Decoded
from salver.gateway.oip.encode import joint_data, joint_fixed, joint_text, opening
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.outline import Outlines
from salver.gateway.oip.reading import Reading, reading_of
from salver.gateway.turn import Turn
from salver.observe.logs import get_logger

log = get_logger(__name__)

_MAX_LOTS: Final = 1024


class Gatherer:
    """Takes usual messages and puts them into the lots of a turn."""

    def __init__(
        self, inference: Inference, turn: Turn, ids: RequestIds, settings: HttpSettings
    ) -> None:
        self._inference = inference
        self._turn = turn
        self._ids = ids
        self._read = Outlines(settings).read
        self._lots: dict[Kind, MessageLot] = {}
        self._reading: Reading | None = None
        self._form: RequestForm | None = None
        self._lot: MessageLot | None = None

    def add(self, message: HttpMessage, reading: Reading) -> None:
        """Answer a message, now if nobody else asks, else together with others."""
        turn = self._turn
        member = None if turn.alone and turn.is_quiet else self._read(message.body)
        if member is None:
            message.request_id = self._ids.make()
            self._inference(message, reading)
            return
        form, payload, caller_id = member
        # Neighbours mostly have everything in common, which identities tell quickly.
        known = self._lot
        if (
            form is self._form
            and reading is self._reading
            and known is not None
            and not known.is_stale
        ):
            lot = known
        else:
            lot = self._find_lot(message, reading, form)
        if reading.traceparent is not None:
            lot.is_traced = True
        message.on_gone = lot.on_left
        turn.add(lot, message, payload, caller_id)

    def _find_lot(self, message: HttpMessage, reading: Reading, form: RequestForm) -> "MessageLot":
        headers = self._inference.routing_headers(reading.target.endpoint, message.headers)
        kind = Kind(reading.target, reading.principal, form, headers)
        lot = self._lots.get(kind)
        if lot is None:
            if len(self._lots) >= _MAX_LOTS:
                self._lots = {known: one for known, one in self._lots.items() if one.seats}
            lot = self._lots[kind] = MessageLot(self._inference, kind)
        self._reading, self._form, self._lot = reading, form, lot
        return lot


class MessageLot(Lot[HttpMessage]):
    """Messages of one kind.

    ``on_left`` is called with a message whose client leaves before it became part of a cohort.
    """

    protocol: ClassVar[str] = PROTOCOL

    def __init__(self, inference: Inference, kind: Kind) -> None:
        super().__init__(inference, kind)
        self.on_left = self.left

    def single(
        self, seat: HttpMessage, payload: bytes, caller_id: str | None, request_id: str
    ) -> None:
        """Let one message go on by itself; its body has been read."""
        seat.on_gone, seat.request_id = None, request_id
        (name, version), form = self.kind.target, self.kind.form
        request = InferenceRequest(name, inputs_of(form, payload), version, form=form)
        self._inference(seat, reading_of(seat), Decoded(request, caller_id))

    def arrival_ns(self, seat: HttpMessage) -> int:
        """Return when a message came."""
        return seat.arrival_ns

    def traceparent(self, seat: HttpMessage) -> str | None:
        """Return the trace that a message names."""
        return reading_of(seat).traceparent

    def seated(self, cohort: Cohort) -> None:
        """Tell messages their ids, and whom to tell when their clients leave."""
        gone = partial(_gone, cohort)
        for message, request_id in zip(cohort.seats, cohort.request_ids, strict=True):
            message.request_id = request_id
            message.on_gone = gone

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return the responder of one member."""
        message: HttpMessage = cohort.seats[index]
        answer = Answer(self._inference, message, request.endpoint, context)
        answer.decoded = Decoded(request, context.caller_id)
        answer.counted = True
        answer.joint = self._inference
        message.on_gone = answer.gone
        return answer

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Write the JSON of all answers at once, and send each caller its own."""
        try:
            data, fixed = joint_data(response), joint_fixed(response)
        except Exception:  # one of them cannot be written, and only that one must fail
            self.answer_singly(pieces, response)
            return
        now_ns = self._inference.clock.monotonic_ns()
        position = 0
        for piece in pieces:
            end = position + piece.stop - piece.start
            own = data if len(pieces) == 1 else [column[position:end] for column in data]
            self._deliver(piece, own, fixed)
            self.finish(piece, response, position, now_ns)
            position = end

    def _deliver(self, piece: Piece, data: list[list[bytes]], fixed: tuple[bytes, ...]) -> None:
        cohort, start, stop = piece
        name, context = self.kind.target.endpoint, cohort.context
        head, line = opening(name, context.version, None), variant_line(context.variant)
        seats, caller_ids = cohort.seats[start:stop], cohort.caller_ids[start:stop]
        replies = _replies(cohort.request_ids[start:stop], line, head, data, fixed)
        for index, (message, caller_id, reply) in enumerate(
            zip(seats, caller_ids, replies, strict=True)
        ):
            try:
                if caller_id is None and not message.close:
                    message.deliver(reply)
                else:
                    rest = joint_text([column[index] for column in data], fixed)
                    message.respond_json(line, opening(name, context.version, caller_id), rest)
            except Exception as error:  # those after it must be answered too
                log.exception("answer_failed", request_id=message.request_id)
                tell(message.fail, fault_of(error), message.request_id)


def _replies(
    request_ids: list[str],
    line: bytes,
    head: bytes,
    data: list[list[bytes]],
    fixed: tuple[bytes, ...],
) -> list[bytes]:
    """Return whole messages, as ``HttpMessage.respond_json`` makes them one by one."""
    size = len(head) + sum(map(len, fixed))
    sizes: Iterable[int] = repeat(0, len(request_ids))
    for column in data:
        sizes = map(add, sizes, map(len, column))
    columns: list[Iterable[bytes]] = [
        repeat(OK_TO_LENGTH),
        [b"%d" % (size + more) for more in sizes],
        repeat(OK_TO_ID),
        [request_id.encode() for request_id in request_ids],
        repeat(b"\r\n%b\r\n%b%b" % (line, head, fixed[0])),
    ]
    for column, after in zip(data, fixed[1:], strict=True):
        columns += [column, repeat(after)]
    return list(map(b"".join, zip(*columns, strict=False)))


def _gone(cohort: Cohort, message: HttpMessage) -> None:
    """The client left; its request is told from the others, and cancelled."""
    tell_apart(cohort)
    if message.on_gone is not None:
        message.on_gone(message)
