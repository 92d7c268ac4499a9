"""Answers the paths of the extensions."""

from collections.abc import Callable
from typing import Any

import orjson

from salver.core.context import Principal
from salver.core.errors import MethodNotAllowed, NotFound, UnsupportedOperation
from salver.gateway.auth import Keys
from salver.gateway.http.inflate import inflate
from salver.gateway.http.message import HttpMessage
from salver.gateway.oip.metadata import variant_of
from salver.gateway.oip.routes import Directory
from salver.gateway.triton.config import model_config
from salver.gateway.triton.paths import Call
from salver.gateway.triton.repository import (
    MAX_BODY_BYTES,
    refuse_change,
    repository_index,
    wants_ready_only,
)
from salver.gateway.triton.statistics import Statistics
from salver.gateway.triton.switches import log_settings, trace_settings
from salver.wire.messages import EndpointPlan

_READ_ONLY = {
    "trace": "trace settings are read-only here: nothing is traced",
    "logging": "log settings are read-only here; 'observe.log_level' is read when Salver starts",
}

Answer = Callable[[HttpMessage, Call, Principal], object]


class TritonExtensions:
    """What the routes of the protocol hand on; each answer is a JSON document.

    ``names`` are those of the extensions that work.
    """

    names = (
        "classification",
        "model_configuration",
        "model_repository",
        "statistics",
    )

    def __init__(
        self,
        endpoints: Callable[[], list[EndpointPlan]],
        directory: Directory,
        keys: Keys,
        statistics: Statistics,
        log_level: str,
    ) -> None:
        self._endpoints = endpoints
        self._directory = directory
        self._keys = keys
        self._statistics = statistics
        self._log_level = log_level
        self._answers: dict[str, Answer] = {
            "index": self._index,
            "load": self._change,
            "unload": self._change,
            "config": self._config,
            "statistics": self._model_stats,
            "generate": self._generate,
            "trace": self._trace,
            "logging": self._logging,
            "memory_status": self._memory_status,
            "memory_register": self._memory_register,
            "memory_unregister": self._memory_unregister,
        }

    def __call__(self, message: HttpMessage, call: Call) -> None:
        """Answer a message; raises what is answered as a refusal.

        These are ``MethodNotAllowed``, ``Unauthenticated``, ``Forbidden``, ``NotFound`` and its
        kinds, ``NotReady``, ``UnsupportedOperation``, and what a bad body is refused with.
        """
        if message.method not in call.methods:
            method = call.methods[0].decode()
            raise MethodNotAllowed(_READ_ONLY.get(call.action, f"this path is asked with {method}"))
        principal = self._keys.identify(message.headers, message.peer)
        document = self._answers[call.action](message, call, principal)
        message.head_only = message.method == b"HEAD"
        message.respond(200, (orjson.dumps(document),))

    def _visible(self, principal: Principal) -> list[EndpointPlan]:
        """Return the endpoints that a caller may ask, by name."""
        allowed = principal.endpoints
        found = [
            endpoint
            for endpoint in self._endpoints()
            if endpoint.tenant == principal.tenant and (allowed is None or endpoint.name in allowed)
        ]
        return sorted(found, key=lambda endpoint: endpoint.name)

    def _index(self, message: HttpMessage, call: Call, principal: Principal) -> object:
        if call.name:
            raise UnsupportedOperation("there is one repository; ask /v2/repository/index")
        encoding = message.headers.get(b"content-encoding", b"")
        body = inflate(message.body, encoding, MAX_BODY_BYTES)
        return repository_index(
            self._visible(principal),
            self._directory.variant_ready,
            ready_only=wants_ready_only(body),
        )

    def _change(self, _message: HttpMessage, call: Call, _principal: Principal) -> object:
        refuse_change(call.action, call.name)

    def _config(self, _message: HttpMessage, call: Call, principal: Principal) -> object:
        endpoint = self._directory.endpoint_for(call.name, principal)
        return model_config(endpoint, variant_of(endpoint, call.version))

    def _model_stats(self, _message: HttpMessage, call: Call, principal: Principal) -> object:
        if not call.name:
            endpoints = self._visible(principal)
        else:
            endpoints = [self._directory.endpoint_for(call.name, principal)]
            if call.version is not None:
                variant_of(endpoints[0], call.version)
        entries: list[dict[str, Any]] = []
        for endpoint in endpoints:
            entries += self._statistics.document(endpoint, call.version)
        return {"model_stats": entries}

    def _generate(self, _message: HttpMessage, call: Call, principal: Principal) -> object:
        self._directory.endpoint_for(call.name, principal)
        raise UnsupportedOperation(
            f"endpoint {call.name!r} does not generate text; ask it with POST …/infer"
        )

    def _trace(self, _message: HttpMessage, call: Call, principal: Principal) -> object:
        if call.name:
            self._directory.endpoint_for(call.name, principal)
        return trace_settings()

    def _logging(self, _message: HttpMessage, _call: Call, _principal: Principal) -> object:
        return log_settings(self._log_level)

    def _memory_status(self, _message: HttpMessage, call: Call, _principal: Principal) -> object:
        if call.name:
            raise NotFound(f"no shared memory region {call.name[:100]!r}; none can be registered")
        return []

    def _memory_register(self, _message: HttpMessage, _call: Call, _who: Principal) -> object:
        raise UnsupportedOperation("memory is not shared with callers; send binary data")

    def _memory_unregister(self, _message: HttpMessage, _call: Call, _who: Principal) -> object:
        return {}
