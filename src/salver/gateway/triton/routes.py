"""Answers the paths of the extensions."""

from collections.abc import Callable

import orjson

from salver.core.context import Principal
from salver.core.errors import MethodNotAllowed
from salver.gateway.auth import Keys
from salver.gateway.http.inflate import inflate
from salver.gateway.http.message import HttpMessage
from salver.gateway.triton.documents import EXTENSIONS, READ_ONLY, Documents
from salver.gateway.triton.paths import Call
from salver.gateway.triton.repository import MAX_BODY_BYTES, refuse_change, wants_ready_only

Answer = Callable[[HttpMessage, Call, Principal], object]


class TritonExtensions:
    """What the routes of the protocol hand on; each answer is a JSON document.

    ``names`` are those of the extensions that work.
    """

    names = EXTENSIONS

    def __init__(self, documents: Documents, keys: Keys) -> None:
        self._documents = documents
        self._keys = keys
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
            raise MethodNotAllowed(READ_ONLY.get(call.action, f"this path is asked with {method}"))
        principal = self._keys.identify(message.headers, message.peer)
        document = self._answers[call.action](message, call, principal)
        message.head_only = message.method == b"HEAD"
        message.respond(200, (orjson.dumps(document),))

    def _index(self, message: HttpMessage, call: Call, principal: Principal) -> object:
        encoding = message.headers.get(b"content-encoding", b"")
        body = inflate(message.body, encoding, MAX_BODY_BYTES)
        ready_only = wants_ready_only(body)
        return self._documents.index(principal, call.name, ready_only=ready_only)

    def _change(self, _message: HttpMessage, call: Call, _principal: Principal) -> object:
        refuse_change(call.action, call.name)

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
