"""``grpc.health.v1.Health``: what probes of gRPC ask."""

from typing import Any

from salver.core.context import Principal
from salver.core.errors import EndpointNotFound
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.services.inference import SERVICE as INFERENCE
from salver.gateway.grpc.services.table import Unaries, Unary
from salver.gateway.oip.routes import Directory

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
_KNOWN = ("", INFERENCE)


class HealthService:
    """Tells whether the server answers; ``unaries`` are its calls."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.unaries: Unaries = {f"{SERVICE}/Check": Unary(self._check, is_open=True)}

    def _check(self, request: Any, principal: Principal) -> Any:
        del principal
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            raise EndpointNotFound(f"no service {request.service[:200]!r} here")
        return message_class("grpc.health.v1.HealthCheckResponse")(status=status)

    def _status(self, service: str) -> int:
        if service not in _KNOWN:
            return SERVICE_UNKNOWN
        return SERVING if self._directory.server_ready() else NOT_SERVING
