"""``ModelStreamInfer``: many inferences on one stream, answered as they are ready."""

from collections.abc import Sequence
from functools import cache

from salver.core.context import Principal, RequestContext
from salver.core.errors import ModelFailed, SalverError
from salver.core.ids import SEALED_LENGTH, RequestIds
from salver.core.request import InferenceResponse
from salver.core.timing import Timing
from salver.gateway.auth import Keys
from salver.gateway.grpc.dialogue import Dialogue
from salver.gateway.grpc.framing import Buffer
from salver.gateway.grpc.infer import REQUEST, GrpcAnswer, GrpcInference, parameters_of, parse
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.services.inference import SERVICE
from salver.gateway.grpc.services.table import Streaming, Streamings
from salver.gateway.grpc.wire import bytes_field
from salver.gateway.statuses import text_of

_INFER_RESPONSE = 2
_WANTS_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"
_REQUEST_ID = "x-salver-request-id"


class StreamService:
    """Answers streams of inferences; ``streamings`` are its calls."""

    def __init__(self, infer: GrpcInference, keys: Keys, ids: RequestIds) -> None:
        self.infer = infer
        self.keys = keys
        self.ids = ids
        call = Streaming(self._open, limit_bytes=None)
        self.streamings: Streamings = {f"{SERVICE}/ModelStreamInfer": call}

    def _open(self, dialogue: Dialogue, principal: Principal) -> "StreamSpeaker":
        return StreamSpeaker(self, dialogue, principal)


class StreamSpeaker:
    """Takes the inferences of one stream.

    What is wrong with one of them is said in its answer, and the others go on; only a key that is
    not valid any more ends the stream.
    """

    def __init__(self, service: StreamService, dialogue: Dialogue, principal: Principal) -> None:
        self.dialogue = dialogue
        self._service = service
        self._principal = principal
        self._keys_number = service.keys.number
        self._open: set[StreamAnswer] = set()

    def take(self, message: Buffer) -> None:
        """Begin one inference; raises ``Unauthenticated``."""
        service, dialogue = self._service, self.dialogue
        if service.keys.number != self._keys_number:
            self._principal = service.keys.identify(
                dialogue.stream.fields, dialogue.connection.peer
            )
            self._keys_number = service.keys.number
        try:
            rest, raw = service.infer.split(message)
            request = parse(REQUEST, rest)
        except SalverError as error:
            self.say_error(error, "")
            return
        context = RequestContext(
            service.ids.make(), self._principal, dialogue.clock.monotonic_ns(), 0
        )
        marks_final = bool(parameters_of(request).get(_WANTS_FINAL))
        answer = StreamAnswer(
            service.infer.inference,
            StreamReplies(self, request.id, marks_final=marks_final),
            request.model_name,
            context,
            speaker=self,
            marks_final=marks_final,
        )
        self._open.add(answer)
        dialogue.opened()
        service.infer.ask(answer, request, raw, dialogue.stream)

    def drain(self) -> None:
        """Every inference ends by itself."""

    def leave(self) -> None:
        """Cancel what is open."""
        for answer in list(self._open):
            answer.gone()

    def forget(self, answer: "StreamAnswer") -> None:
        """Take note that an inference has ended."""
        if answer in self._open:
            self._open.discard(answer)
            self.dialogue.closed()

    def say_error(self, error: SalverError, caller_id: str, *, marks_final: bool = False) -> None:
        """Answer one inference with what is wrong with it."""
        response = message_class("inference.ModelStreamInferResponse")(
            error_message=f"{text_of(error)} [{error.code}]"
        )
        response.infer_response.id = caller_id
        if marks_final:
            response.infer_response.parameters[_FINAL].bool_param = True
        self.dialogue.send((response.SerializeToString(),))


class StreamReplies:
    """Where the answers to one inference of a stream go."""

    def __init__(self, speaker: StreamSpeaker, caller_id: str, *, marks_final: bool) -> None:
        self._speaker = speaker
        self._caller_id = caller_id
        self._marks_final = marks_final
        self.request_id = ""

    def reply(self, parts: Sequence[Buffer], fields: bytes = b"") -> None:
        """Send a response; the head has gone, so ``fields`` have no place."""
        del fields
        size = sum([p.nbytes if isinstance(p, memoryview) else len(p) for p in parts])
        self._speaker.dialogue.send((bytes_field(_INFER_RESPONSE, size), *parts))

    def fail(self, error: SalverError) -> None:
        """Send an error as a response."""
        self._speaker.say_error(error, self._caller_id, marks_final=self._marks_final)


class StreamAnswer(GrpcAnswer, eq=False, kw_only=True):
    """Responder of one inference of a stream.

    ``marks_final`` says that each answer tells whether it is the last, and that one without outputs
    is sent if the last has none. Answers have no head of their own, so that those of endpoints with
    several versions tell their ids as the parameter ``x-salver-request-id``.
    """

    speaker: StreamSpeaker
    marks_final: bool = False
    has_sent: bool = False

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Answer, or send a chunk of the answer."""
        if self.finished:
            return
        stays_silent = final and self.has_sent and not response.outputs and not self.marks_final
        if not stays_silent:
            more = [_final_field(final=final)] if self.marks_final else []
            if len(self.context.request_id) == SEALED_LENGTH:
                more.append(_identity_field(self.context.request_id))
            if not self.write(response, more):
                return
            self.has_sent = True
        if final:
            self.finish("", response.timing)
        elif self.speaker.dialogue.stream.held_bytes > self.owner.max_answer_bytes:
            limit = self.owner.max_answer_bytes
            self.fail(ModelFailed(f"over {limit} bytes of answers wait for a client that is slow"))
            self.context.cancel()

    def finish(
        self, code: str, timing: Timing | None, response: InferenceResponse | None = None
    ) -> None:
        """Record what became of it, and make room for another."""
        super().finish(code, timing, response)
        self.speaker.forget(self)


@cache
def _final_field(*, final: bool) -> bytes:
    """Return the parameter that marks an answer as the last of its request, or not."""
    response = message_class("inference.ModelInferResponse")()
    response.parameters[_FINAL].bool_param = final
    return bytes(response.SerializeToString())


def _identity_field(request_id: str) -> bytes:
    """Return the parameter that tells an answer's id."""
    response = message_class("inference.ModelInferResponse")()
    response.parameters[_REQUEST_ID].string_param = request_id
    return bytes(response.SerializeToString())
