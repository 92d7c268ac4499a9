"""The Open Inference Protocol's calls besides inference itself."""

from collections.abc import Sequence
from typing import Any

from salver import __version__
from salver.core.context import Principal
from salver.core.errors import NotReady
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.services.table import Unaries, Unary
from salver.gateway.oip.metadata import model_metadata, server_metadata, variant_of
from salver.gateway.oip.routes import Directory

SERVICE = "inference.GRPCInferenceService"


class InferenceService:
    """Says what is there and whether it is ready; ``unaries`` are its calls.

    ``extensions`` are the names of those that work.
    """

    def __init__(self, directory: Directory, extensions: Sequence[str]) -> None:
        self._directory = directory
        self._extensions = extensions
        self.unaries: Unaries = {
            f"{SERVICE}/ServerLive": Unary(self._live, is_open=True),
            f"{SERVICE}/ServerReady": Unary(self._ready, is_open=True),
            f"{SERVICE}/ModelReady": Unary(self._model_ready),
            f"{SERVICE}/ServerMetadata": Unary(self._server),
            f"{SERVICE}/ModelMetadata": Unary(self._model),
        }

    def _live(self, request: Any, principal: Principal) -> Any:
        del request, principal
        return message_class("inference.ServerLiveResponse")(live=True)

    def _ready(self, request: Any, principal: Principal) -> Any:
        del request, principal
        ready = self._directory.server_ready()
        return message_class("inference.ServerReadyResponse")(ready=ready)

    def _model_ready(self, request: Any, principal: Principal) -> Any:
        endpoint = self._directory.endpoint_for(request.name, principal)
        try:
            variant = variant_of(endpoint, request.version or None)
            ready = self._directory.variant_ready(variant.id)
        except NotReady:
            ready = False
        return message_class("inference.ModelReadyResponse")(ready=ready)

    def _server(self, request: Any, principal: Principal) -> Any:
        del request, principal
        document = server_metadata(self._extensions)
        return message_class("inference.ServerMetadataResponse")(
            name="salver", version=__version__, extensions=document["extensions"]
        )

    def _model(self, request: Any, principal: Principal) -> Any:
        endpoint = self._directory.endpoint_for(request.name, principal)
        document = model_metadata(endpoint, variant_of(endpoint, request.version or None))
        response = message_class("inference.ModelMetadataResponse")(
            name=document["name"], versions=document["versions"], platform=document["platform"]
        )
        for side in ("inputs", "outputs"):
            for tensor in document[side]:
                getattr(response, side).add(
                    name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"]
                )
        return response
