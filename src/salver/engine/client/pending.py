"""One request on its way through the workers."""

from salver.core.context import RequestContext
from salver.core.handler import Responder
from salver.core.request import InferenceRequest
from salver.core.tensor import Tensor
from salver.wire.framing import Buffer
from salver.wire.messages import Chunk, Infer, TensorHeader

NANOSECONDS_PER_MICROSECOND = 1000


class Pending:
    """A request that has no final answer yet.

    ``started`` tells that its worker was about to run it; ``attempts`` counts how often it was
    sent; ``quarantined`` that its present attempt is the last one.
    """

    __slots__ = (
        "attempts",
        "chunks",
        "context",
        "id",
        "link",
        "quarantined",
        "request",
        "responder",
        "route",
        "started",
    )

    def __init__(
        self,
        request: InferenceRequest,
        context: RequestContext,
        responder: Responder,
        route: object,
    ) -> None:
        self.request = request
        self.context = context
        self.responder = responder
        self.route = route
        self.id = 0
        self.link: object | None = None
        self.attempts = 0
        self.chunks = 0
        self.started = False
        self.quarantined = False

    def infer(self, now_ns: int) -> Infer:
        """Return the message that asks a worker."""
        request, context = self.request, self.context
        stream = bool(request.parameters and request.parameters.get("stream"))
        return Infer(
            self.id,
            context.variant,
            tuple(
                [TensorHeader(t.name, t.datatype, t.shape, t.size_bytes) for t in request.inputs]
            ),
            max(0, (context.deadline_ns - now_ns) // NANOSECONDS_PER_MICROSECOND),
            context.request_id,
            request.outputs,
            request.parameters,
            context.priority,
            stream,
            STREAM_CREDIT if stream else 0,
            context.traceparent,
        )

    def buffers(self) -> list[Buffer]:
        """Return the payload that goes with ``infer``."""
        return [tensor.buffer for tensor in self.request.inputs]


STREAM_CREDIT = 16


def tensors_of(chunk: Chunk, payload: Buffer) -> list[Tensor]:
    """Return a chunk's outputs as views of its payload."""
    headers = chunk.outputs
    if len(headers) == 1:
        header = headers[0]
        return [Tensor(header.name, header.datatype, header.shape, payload)]
    tensors: list[Tensor] = []
    position = 0
    for header in headers:
        stop = position + header.size_bytes
        tensors.append(Tensor(header.name, header.datatype, header.shape, payload[position:stop]))
        position = stop
    return tensors
