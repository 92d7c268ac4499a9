"""The one shape of everything on the request path.

Router, pipeline and engine client are handlers; composing them is wrapping one in another.
A handler returns at once: it answers now or later, through the responder.
"""

from typing import Protocol

from salver.core.context import RequestContext
from salver.core.errors import SalverError
from salver.core.request import InferenceRequest, InferenceResponse


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


class Handler(Protocol):
    """One piece of the request path."""

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Take over the request; every failure goes to ``responder.fail``, none is raised."""
        ...
