"""Messages that differ in their bodies' values only, on their way to be cohorts and back."""

from collections.abc import Sequence
from functools import partial

from salver.core.cohort import MAX_COHORT_BYTES, MAX_MEMBERS, Cohort, Piece
from salver.core.context import Principal, RequestContext
from salver.core.errors import fault_of
from salver.core.exchange import JointExchange
from salver.core.handler import Responder
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest, JointResponse, RequestForm
from salver.gateway.auth import may_ask
from salver.gateway.http.message import HttpMessage
from salver.gateway.oip.answer import PROTOCOL, Answer, variant_line
from salver.gateway.oip.decode import Decoded
from salver.gateway.oip.encode import encode_joint, opening
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.reading import Target, reading_of
from salver.observe.logs import get_logger

log = get_logger(__name__)

# Fewer cost less one by one.
_MIN_MEMBERS = 3

Columns = tuple[list[HttpMessage], list[bytes], list[str | None]]


class Lot:
    """Gathered messages of one target, principal and form; audience of the cohorts made of them.

    ``on_left`` is called with a message whose client leaves before it became part of a cohort.
    """

    __slots__ = (
        "_inference",
        "caller_ids",
        "form",
        "is_traced",
        "limit",
        "messages",
        "on_left",
        "payloads",
        "principal",
        "target",
    )

    def __init__(
        self,
        inference: Inference,
        target: Target,
        principal: Principal,
        form: RequestForm,
    ) -> None:
        self._inference = inference
        self.target = target
        self.principal = principal
        self.form = form
        self.limit = min(MAX_MEMBERS, MAX_COHORT_BYTES // max(1, form.size_bytes or 0))
        self.messages: list[HttpMessage] = []
        self.payloads: list[bytes] = []
        self.caller_ids: list[str | None] = []
        self.on_left = self._left
        self.is_traced = False

    def take(self) -> Columns:
        """Return what was gathered and begin anew."""
        columns = (self.messages, self.payloads, self.caller_ids)
        self.messages, self.payloads, self.caller_ids = [], [], []
        return columns

    def cohorts(self, ids: RequestIds) -> list[Cohort]:
        """Return what was gathered as a cohort; nothing is taken when it cannot be one."""
        count, name = len(self.messages), self.target.endpoint
        endpoint = self._inference.find(name)
        if count < _MIN_MEMBERS or endpoint is None or not may_ask(self.principal, name, count):
            return []
        messages, payloads, caller_ids = self.take()
        arrival_ns, request_ids = messages[0].arrival_ns, ids.make_many(count)
        deadline_ns = arrival_ns + self._inference.timeout_ns(endpoint)
        context = RequestContext("", self.principal, arrival_ns, deadline_ns)
        request = InferenceRequest(name, [], self.target.version, form=self.form)
        cohort = Cohort(request, context, self, messages, request_ids, caller_ids, payloads)
        gone = partial(self._gone, cohort)
        for message, request_id in zip(messages, request_ids, strict=True):
            message.request_id = request_id
            message.on_gone = gone
        if self.is_traced:
            self.is_traced = False
            cohort.traceparents = [reading_of(message).traceparent for message in messages]
        self.principal.in_flight += count
        self._inference.open_count += count
        return [cohort]

    def _left(self, message: HttpMessage) -> None:
        index = self.messages.index(message)
        for column in (self.messages, self.payloads, self.caller_ids):
            del column[index]

    def _gone(self, cohort: Cohort, message: HttpMessage) -> None:
        """The client left; its request is told from the others, and cancelled."""
        if cohort.when_apart is not None:
            cohort.when_apart()
        if message.on_gone is not None:
            message.on_gone(message)

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return the responder of one member; see ``core.cohort.Audience``."""
        message: HttpMessage = cohort.seats[index]
        answer = Answer(self._inference, message, request.endpoint, context)
        answer.decoded = Decoded(request, context.caller_id)
        answer.counted = True
        answer.joint = self._inference
        message.on_gone = answer.gone
        return answer

    def answer(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        """Deliver final answers; see ``core.cohort.Audience``."""
        try:
            texts = encode_joint(response)
        except Exception:  # one of them cannot be written, and only that one must fail
            self._answer_singly(pieces, response)
            return
        now_ns = self._inference.clock.monotonic_ns()
        position = 0
        for piece in pieces:
            end = position + piece.stop - piece.start
            self._deliver(piece, texts[position:end])
            self._finish(piece, response, position, now_ns)
            position = end

    def _deliver(self, piece: Piece, texts: list[bytes]) -> None:
        cohort, start, stop = piece
        name, context = self.target.endpoint, cohort.context
        head, line = opening(name, context.version, None), variant_line(context.variant)
        seats, caller_ids = cohort.seats[start:stop], cohort.caller_ids[start:stop]
        for message, caller_id, text in zip(seats, caller_ids, texts, strict=True):
            own = head
            try:
                if caller_id is not None:
                    own = opening(name, context.version, caller_id)
                message.respond_json(line, own, text)
            except Exception as error:  # those after it must be answered too
                log.exception("answer_failed", request_id=message.request_id)
                message.fail(fault_of(error))

    def _finish(self, piece: Piece, response: JointResponse, position: int, now_ns: int) -> None:
        cohort, start, stop = piece
        count, context, inference = stop - start, cohort.context, self._inference
        self.principal.in_flight -= count
        inference.open_count -= count
        inference.ring.append_joint(
            JointExchange(
                context,
                self.target.endpoint,
                PROTOCOL,
                now_ns - context.arrival_ns,
                cohort.request_ids[start:stop],
                response.timings[position : position + count],
                self.form.rows,
            )
        )

    def _answer_singly(self, pieces: Sequence[Piece], response: JointResponse) -> None:
        position = 0
        for cohort, start, stop in pieces:
            for index in range(start, stop):
                _, _, responder = cohort.member(index)
                responder.send(response.alone(position))
                position += 1
