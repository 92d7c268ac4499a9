"""Gathers usual ``ModelInfer`` calls into cohorts, and answers those.

What a client sends for the same model in the same shape is the same bytes but for the tensor, which
is the last field of the message. So a message that was read once tells how to read all with the
same bytes before their tensor. Off with the setting ``http.gather``; both ways give the same
answers.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Final

from salver.core.cohort import Cohort, Piece, inputs_of
from salver.core.context import Principal, RequestContext
from salver.core.errors import SalverError, fault_of
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, JointResponse
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.framing import Buffer, timeout_ns
from salver.gateway.grpc.infer import PROTOCOL, GrpcAnswer, GrpcInference
from salver.gateway.grpc.plans import Plans
from salver.gateway.grpc.response import members
from salver.gateway.h2.headers import literal
from salver.gateway.lot import Kind, Lot, tell_apart
from salver.gateway.oip.answer import tell
from salver.gateway.oip.decode import Decoded
from salver.gateway.oip.infer import Inference
from salver.gateway.turn import Turn
from salver.observe.logs import get_logger

log = get_logger(__name__)

_MAX_LOTS: Final = 1024
_MAX_BODY_BYTES: Final = 16 * 1024


class CallGatherer:
    """Takes usual calls and puts them into the lots of a turn."""

    def __init__(self, inference: Inference, infer: GrpcInference, turn: Turn) -> None:
        self._inference = inference
        self._infer = infer
        self._turn = turn
        self._plans = Plans()
        self._lots: dict[Kind, CallLot] = {}

    def add(self, call: Call, principal: Principal, body: Buffer) -> bool:
        """Take a call; False leaves it to whoever reads the whole message."""
        if self._turn.is_quiet or type(body) is not bytes:
            return False
        found = self._plans.find(body)
        if found is None:
            return False
        plan, payload = found
        fields = call.stream.fields
        asked = fields.get(b"grpc-timeout")
        if asked is not None:
            try:
                limit_ns = min(timeout_ns(asked), self._infer.max_timeout_ns)
            except SalverError:
                return False
            call.deadline_ns = call.stream.begun_ns + limit_ns
        headers = self._inference.routing_headers(plan.target.endpoint, fields)
        kind = Kind(plan.target, principal, plan.form, headers)
        lot = self._lots.get(kind)
        if lot is None:
            if len(self._lots) >= _MAX_LOTS:
                self._lots = {known: one for known, one in self._lots.items() if one.seats}
            lot = self._lots[kind] = CallLot(self._inference, self._infer, kind)
        if b"traceparent" in fields:
            lot.is_traced = True
        if asked is not None:
            lot.is_hurried = True
        call.stream.on_gone = partial(lot.left, call)
        self._turn.add(lot, call, payload, None)
        return True

    def learn(self, body: Buffer, request: InferenceRequest) -> None:
        """Remember the message of a call that was read whole."""
        if type(body) is bytes and len(body) <= _MAX_BODY_BYTES:
            self._plans.learn(body, request)


class CallLot(Lot[Call]):
    """Calls of one kind."""

    protocol: ClassVar[str] = PROTOCOL

    def __init__(self, inference: Inference, infer: GrpcInference, kind: Kind) -> None:
        super().__init__(inference, kind)
        self._infer = infer
        self.is_hurried = False

    def single(self, seat: Call, payload: bytes, caller_id: str | None, request_id: str) -> None:
        """Let one call go on by itself; its message has been read."""
        seat.request_id = request_id
        (name, version), form = self.kind.target, self.kind.form
        request = InferenceRequest(name, inputs_of(form, payload), version, form=form)
        stream = seat.stream
        context = RequestContext(request_id, self.kind.principal, stream.begun_ns, 0)
        answer = GrpcAnswer(self._inference, seat, name, context)
        stream.on_gone = answer.gone
        self._infer.ask_decoded(answer, Decoded(request, caller_id), stream)

    def arrival_ns(self, seat: Call) -> int:
        """Return when a call began."""
        return seat.stream.begun_ns

    def traceparent(self, seat: Call) -> str | None:
        """Return the trace that a call names."""
        trace = seat.stream.fields.get(b"traceparent")
        return None if trace is None else trace.decode("latin-1")

    def deadlines_ns(self, seats: list[Call], usual_ns: int) -> list[int]:
        """Return each call's deadline, nothing where no client has one of its own."""
        if not self.is_hurried:
            return []
        self.is_hurried = False
        return [usual_ns if call.deadline_ns is None else call.deadline_ns for call in seats]

    def seated(self, cohort: Cohort) -> None:
        """Tell calls their ids, and whom to tell when their clients give up."""
        for call, request_id in zip(cohort.seats, cohort.request_ids, strict=True):
            call.request_id = request_id
            call.stream.on_gone = partial(_gone, cohort, call)

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return the responder of one member."""
        call: Call = cohort.seats[index]
        answer = GrpcAnswer(self._inference, call, request.endpoint, context)
        answer.counted, answer.request = True, request
        call.stream.on_gone = answer.gone
        return answer

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Make the messages of all answers, and send each caller its own."""
        now_ns = self._inference.clock.monotonic_ns()
        position = 0
        for piece in pieces:
            cohort, start, stop = piece
            end, context = position + stop - start, cohort.context
            field = literal(b"x-salver-variant", context.variant.encode())
            made = members(self.kind.target.endpoint, context.version, response, position, end)
            for call, message in zip(cohort.seats[start:stop], made, strict=True):
                try:
                    call.reply((message,), field)
                except Exception as error:  # those after it must be answered too
                    log.exception("answer_failed", request_id=call.request_id)
                    tell(call.fail, fault_of(error), call.request_id)
            self.finish(piece, response, position, now_ns)
            position = end


def _gone(cohort: Cohort, call: Call) -> None:
    """The client gave up; its call is told from the others, and cancelled."""
    tell_apart(cohort)
    gone, call.stream.on_gone = call.stream.on_gone, None
    if gone is not None:
        gone()
