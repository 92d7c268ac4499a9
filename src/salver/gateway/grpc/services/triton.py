"""Triton's calls besides inference: the documents of its REST extensions as messages."""

from typing import Any

from google.protobuf.json_format import ParseDict

from salver.core.context import Principal
from salver.core.errors import UnsupportedOperation
from salver.gateway.grpc.schema import message_class
from salver.gateway.grpc.services.inference import SERVICE
from salver.gateway.grpc.services.table import Act, Unaries, Unary
from salver.gateway.triton.documents import READ_ONLY, Documents

_LOG_FIELDS = {bool: "bool_param", int: "uint32_param", str: "string_param"}


class TritonService:
    """Answers what Triton's clients and tools ask; ``unaries`` are its calls."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        acts: dict[str, Act] = {
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "TraceSetting": self._trace,
            "LogSettings": self._logging,
        }
        for kind in ("System", "Cuda"):
            acts[f"{kind}SharedMemoryStatus"] = self._memory_status(kind)
            acts[f"{kind}SharedMemoryRegister"] = self._memory_register
            acts[f"{kind}SharedMemoryUnregister"] = self._memory_unregister(kind)
        self.unaries: Unaries = {f"{SERVICE}/{name}": Unary(act) for name, act in acts.items()}

    def _config(self, request: Any, principal: Principal) -> Any:
        config = self._documents.config(principal, request.name, request.version or None)
        return _parsed("ModelConfigResponse", {"config": config})

    def _statistics(self, request: Any, principal: Principal) -> Any:
        version = request.version or None
        document = self._documents.statistics(principal, request.name, version)
        return _parsed("ModelStatisticsResponse", document)

    def _index(self, request: Any, principal: Principal) -> Any:
        models = self._documents.index(principal, request.repository_name, ready_only=request.ready)
        return _parsed("RepositoryIndexResponse", {"models": models})

    def _trace(self, request: Any, principal: Principal) -> Any:
        if request.settings:
            raise UnsupportedOperation(READ_ONLY["trace"])
        response = message_class("inference.TraceSettingResponse")()
        for name, value in self._documents.trace(principal, request.model_name).items():
            texts = value if isinstance(value, list) else [value]
            response.settings[name].value.extend(texts)
        return response

    def _logging(self, request: Any, principal: Principal) -> Any:
        del principal
        if request.settings:
            raise UnsupportedOperation(READ_ONLY["logging"])
        response = message_class("inference.LogSettingsResponse")()
        for name, value in self._documents.logging().items():
            setattr(response.settings[name], _LOG_FIELDS[type(value)], value)
        return response

    def _memory_status(self, kind: str) -> Act:
        def act(request: Any, principal: Principal) -> Any:
            del principal
            self._documents.check_region(request.name)
            return message_class(f"inference.{kind}SharedMemoryStatusResponse")()

        return act

    def _memory_register(self, request: Any, principal: Principal) -> Any:
        del request, principal
        self._documents.refuse_region()

    def _memory_unregister(self, kind: str) -> Act:
        def act(request: Any, principal: Principal) -> Any:
            del request, principal
            return message_class(f"inference.{kind}SharedMemoryUnregisterResponse")()

        return act


def _parsed(name: str, document: dict[str, Any]) -> Any:
    return ParseDict(document, message_class(f"inference.{name}")())
