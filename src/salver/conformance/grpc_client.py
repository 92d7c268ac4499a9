"""The gRPC client of the checks; needs `grpcio`, which is imported only where --grpc is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from salver.conformance.exchange import Exchange
from salver.conformance.grpc_messages import METHODS, SERVICE, message_classes
from salver.core.errors import NotReady, UnsupportedOperation

_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
OK = "OK"
_UNREACHED = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call came to: the status code's name, its text, and the message where it is OK."""

    code: str
    details: str
    message: Any


class GrpcClient:
    """Calls one server; each call is told to ``record``."""

    def __init__(
        self, address: str, api_key: str, timeout_s: float, record: Callable[[Exchange], None]
    ) -> None:
        self.address = address
        self._metadata = [("authorization", f"Bearer {api_key}")] if api_key else []
        self._timeout_s = timeout_s
        self._record = record
        self._channel: Any = None
        self._errors: type[Exception] = Exception
        self._calls: dict[str, Any] = {}
        self._classes: dict[str, Any] = {}

    def start(self) -> None:
        """Open the channel and ask once.

        Raises ``UnsupportedOperation`` where `grpcio` or `protobuf` is not installed, and
        ``NotReady`` where nothing answers.
        """
        try:
            import grpc  # noqa: PLC0415

            self._classes = message_classes()
        except ImportError as error:
            raise UnsupportedOperation(
                "--grpc needs the packages grpcio and protobuf, which are not installed here; "
                "run: pip install grpcio protobuf"
            ) from error
        limits = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.enable_http_proxy", 0),
        ]
        self._errors = grpc.RpcError
        self._channel = grpc.insecure_channel(self.address, options=limits)
        for name in METHODS:
            self._calls[name] = self._channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=self._classes[f"{name}Request"].SerializeToString,
                response_deserializer=self._classes[f"{name}Response"].FromString,
            )
        first = self.call("ServerLive")
        if first.code in _UNREACHED:
            self.stop()
            raise NotReady(
                f"{self.address} cannot be asked over gRPC ({first.code}: {first.details}); "
                f"start the server, or give the address of its gRPC port"
            )

    def stop(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            self._channel.close()

    def call(self, method: str, /, **fields: Any) -> Reply:
        """Call a method of the service with these fields; never raises for what a server does."""
        request = self._classes[f"{method}Request"](**fields)
        try:
            message = self._calls[method](
                request, timeout=self._timeout_s, metadata=self._metadata or None
            )
            reply = Reply(OK, "", message)
        except self._errors as error:
            reply = Reply(_code(error), _details(error), None)
        shown = reply.details if reply.message is None else str(reply.message)
        self._record(
            Exchange(
                "gRPC",
                f"/{SERVICE}/{method}",
                {},
                str(request).encode(),
                0,
                {},
                shown.encode(),
                label=reply.code,
            )
        )
        return reply


def _code(error: Any) -> str:
    return str(error.code().name) if hasattr(error, "code") else type(error).__name__


def _details(error: Any) -> str:
    return str(error.details() or "") if hasattr(error, "details") else str(error)
