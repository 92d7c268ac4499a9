"""``grpc.health.v1.Health``: what probes of gRPC ask, once or for as long as they like."""

import asyncio
from typing import Any

from salver.core.context import Principal
from salver.core.errors import EndpointNotFound, InvalidRequest, Overloaded
from salver.gateway.grpc.dialogue import Dialogue
from salver.gateway.grpc.framing import Buffer
from salver.gateway.grpc.infer import parse
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.services.inference import SERVICE as INFERENCE
from salver.gateway.grpc.services.table import Streaming, Streamings, Unaries, Unary
from salver.gateway.oip.routes import Directory

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
_MAX_WATCHERS = 1024
_KNOWN = ("", INFERENCE)
_LOOK_S = 0.25
_RETRY_AFTER_S = 10.0


class HealthService:
    """Tells whether the server answers; ``unaries`` and ``streamings`` are its calls.

    Nobody announces a change, so it is looked for, and only while somebody watches; no more than
    ``max_watchers`` may.
    """

    def __init__(self, directory: Directory) -> None:
        self.max_watchers = _MAX_WATCHERS
        self._directory = directory
        self._watchers: set[Watcher] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.unaries: Unaries = {f"{SERVICE}/Check": Unary(self._check, is_open=True)}
        self.streamings: Streamings = {f"{SERVICE}/Watch": Streaming(self._open, is_open=True)}

    def status(self, service: str) -> int:
        """Return the status of a service."""
        if service not in _KNOWN:
            return SERVICE_UNKNOWN
        return SERVING if self._directory.server_ready() else NOT_SERVING

    def watch(self, watcher: "Watcher") -> None:
        """Tell a watcher of changes from now on; raises ``Overloaded``."""
        if len(self._watchers) >= self.max_watchers:
            raise Overloaded("too many watch already; ask with Check", retry_after_s=_RETRY_AFTER_S)
        self._watchers.add(watcher)
        if self._timer is None:
            self._look_later()

    def forget(self, watcher: "Watcher") -> None:
        """Tell a watcher nothing any more."""
        self._watchers.discard(watcher)
        if not self._watchers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._look_later()
        for watcher in list(self._watchers):
            watcher.tell()

    def _check(self, request: Any, principal: Principal) -> Any:
        del principal
        status = self.status(request.service)
        if status == SERVICE_UNKNOWN:
            raise EndpointNotFound(f"no service {request.service[:200]!r} here")
        return message_class("grpc.health.v1.HealthCheckResponse")(status=status)

    def _open(self, dialogue: Dialogue, principal: Principal) -> "Watcher":
        del principal
        return Watcher(self, dialogue)


class Watcher:
    """One call of ``Watch``: the status at once, and then whenever it is another.

    A status that the client has not read yet holds back those after it, of which only the newest
    is sent.
    """

    def __init__(self, service: HealthService, dialogue: Dialogue) -> None:
        self._service = service
        self._dialogue = dialogue
        self._name = ""
        self._has_begun = False
        self._is_watching = False
        self._told = -1

    def take(self, message: Buffer) -> None:
        """Begin; raises ``InvalidRequest`` for a second message, and ``Overloaded``."""
        if self._has_begun:
            raise InvalidRequest("a call of this kind takes one message")
        self._has_begun = True
        self._name = str(parse("grpc.health.v1.HealthCheckRequest", message).service)
        self._service.watch(self)
        self._is_watching = True
        self._dialogue.opened()
        self.tell()

    def tell(self) -> None:
        """Send the status if it is another than was sent last."""
        if not self._is_watching or self._dialogue.stream.held_bytes:
            return
        status = self._service.status(self._name)
        if status != self._told:
            self._told = status
            response = message_class("grpc.health.v1.HealthCheckResponse")(status=status)
            self._dialogue.send((response.SerializeToString(),))

    def drain(self) -> None:
        """Send the last status and end."""
        if self._is_watching:
            self.tell()
            self.leave()
            self._dialogue.closed()

    def leave(self) -> None:
        """Watch no more."""
        self._service.forget(self)
        self._is_watching = False
