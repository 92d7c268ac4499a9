"""Answers the paths of the extensions."""

from collections.abc import Callable, Mapping

import orjson

from salver.core.context import Principal
from salver.core.errors import MethodNotAllowed, SalverError
from salver.gateway.auth import Keys
from salver.gateway.http.inflate import inflate
from salver.gateway.http.message import Buffer, HttpMessage
from salver.gateway.triton.changes import Changes, Wanted
from salver.gateway.triton.documents import READ_ONLY, Documents, extension_names
from salver.gateway.triton.paths import Call
from salver.gateway.triton.repository import (
    MAX_BODY_BYTES,
    change_parameters,
    wants_ready_only,
)

_CHANGES = frozenset(("load", "unload"))

Answer = Callable[[HttpMessage, Call, Principal], object]


class TritonExtensions:
    """What the routes of the protocol hand on; each answer is a JSON document.

    ``names`` are those of the extensions that work.
    """

    def __init__(self, documents: Documents, keys: Keys, changes: Changes) -> None:
        self.names = extension_names(changes=changes.is_on)
        self._documents = documents
        self._keys = keys
        self._changes = changes
        self._answers: dict[str, Answer] = {
            "index": self._index,
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
        """Answer a message, a load or unload when control has answered.

        Raises what is answered as a refusal: ``MethodNotAllowed``, ``Unauthenticated``,
        ``Forbidden``, ``NotFound`` and its kinds, ``NotReady``, ``UnsupportedOperation``, and what
        a bad body is refused with.
        """
        if message.method not in call.methods:
            method = call.methods[0].decode()
            raise MethodNotAllowed(READ_ONLY.get(call.action, f"this path is asked with {method}"))
        principal = self._keys.identify(message.headers, message.peer)
        if call.action in _CHANGES:
            self._change(message, call, principal)
            return
        document = self._answers[call.action](message, call, principal)
        message.head_only = message.method == b"HEAD"
        message.respond(200, (orjson.dumps(document),))

    def _index(self, message: HttpMessage, call: Call, principal: Principal) -> object:
        ready_only = wants_ready_only(_body(message))
        return self._documents.index(principal, call.name, ready_only=ready_only)

    def _change(self, message: HttpMessage, call: Call, principal: Principal) -> None:
        def parameters() -> Mapping[str, object]:
            return change_parameters(_body(message))

        def done(error: SalverError | None) -> None:
            if error is None:
                message.respond(200, (b"{}",))
            else:
                message.fail(error)

        wanted = Wanted(
            call.action, call.name, call.repository, principal, message.request_id, parameters
        )
        self._changes.begin(wanted, done)

    def _config(self, _message: HttpMessage, call: Call, principal: Principal) -> object:
        return self._documents.config(principal, call.name, call.version)

    def _model_stats(self, _message: HttpMessage, call: Call, principal: Principal) -> object:
        return self._documents.statistics(principal, call.name, call.version)

    def _generate(self, _message: HttpMessage, call: Call, principal: Principal) -> object:
        self._documents.refuse_text(principal, call.name)

    def _trace(self, _message: HttpMessage, call: Call, principal: Principal) -> object:
        return self._documents.trace(principal, call.name)

    def _logging(self, _message: HttpMessage, _call: Call, _principal: Principal) -> object:
        return self._documents.logging()

    def _memory_status(self, _message: HttpMessage, call: Call, _principal: Principal) -> object:
        self._documents.check_region(call.name)
        return []

    def _memory_register(self, _message: HttpMessage, _call: Call, _who: Principal) -> object:
        self._documents.refuse_region()

    def _memory_unregister(self, _message: HttpMessage, _call: Call, _who: Principal) -> object:
        return {}


def _body(message: HttpMessage) -> Buffer:
    encoding = message.headers.get(b"content-encoding", b"")
    return inflate(message.body, encoding, MAX_BODY_BYTES)
