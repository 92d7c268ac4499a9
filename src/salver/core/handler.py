"""The one shape of everything on the request path.

Router, pipeline and engine client are handlers; composing them is wrapping one in another.
A handler returns at once: it answers now or later, through the responder.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from salver.core.context import RequestContext
from salver.core.errors import SalverError
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse


class Responder(Protocol):
    """Where the answer goes.

    Either ``send`` is called one or more times, the last with ``final=True``, or ``fail`` is
    called once (also after non-final chunks). Nothing may follow a final call. Calls come from
    the event loop's thread and must not raise.
    """

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Deliver an answer or a chunk of it."""
        ...

    def fail(self, error: SalverError) -> None:
        """Deliver a refusal or failure; the exchange is over."""
        ...


class JointSink(Protocol):
    """Takes the final answers to many requests at once; an option of responders.

    A responder offers it as its attribute ``joint``. Those that share one may be answered by a
    single call of it instead of a ``send`` to each; what they deliver is the same.
    """

    def send_joint(self, responders: Sequence[Any], response: JointResponse) -> None:
        """Deliver to each responder its part of the response, in order."""
        ...


class Handler(Protocol):
    """One piece of the request path."""

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Take over the request; every failure goes to ``responder.fail``, none is raised."""
        ...


def answer_jointly(responders: Sequence[Responder | None], response: JointResponse) -> None:
    """Deliver a joint response, at once where the responders share a sink for it.

    None stands for a caller that is not there any more. Where a responder raises, against its
    contract, the others are answered before the first of such errors is raised.
    """
    sinks = {getattr(responder, "joint", None) for responder in responders}
    sink: JointSink | None = sinks.pop()
    if sink is not None and not sinks:
        sink.send_joint(responders, response)
        return
    faults: list[Exception] = []
    for index, responder in enumerate(responders):
        if responder is not None:
            try:
                responder.send(response.alone(index))
            except Exception as error:  # those after it must be answered too
                faults.append(error)
    if faults:
        raise faults[0]
