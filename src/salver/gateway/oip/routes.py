"""The paths of the protocol, and who may ask them."""

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, cast
from urllib.parse import unquote

import orjson

from salver.core.context import Principal
from salver.core.errors import (
    EndpointNotFound,
    MethodNotAllowed,
    RouteNotFound,
    SalverError,
    fault_of,
)
from salver.core.ids import RequestIds
from salver.core.names import check_name
from salver.gateway.auth import Keys, check_access
from salver.gateway.docs.openapi import endpoint_document
from salver.gateway.docs.page import send_docs, send_server_docs
from salver.gateway.http.message import HttpMessage
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.metadata import model_metadata, server_metadata, variant_of
from salver.gateway.oip.reading import Reading, Route, Target, read_head
from salver.gateway.triton.paths import Call, parse_call
from salver.gateway.v1.paths import parse_v1
from salver.gateway.v1.status import model_list, model_signatures, model_status
from salver.observe.logs import get_logger
from salver.wire.messages import EndpointPlan

log = get_logger(__name__)

_MAX_ROUTES: Final = 4096
# Whom an absolute target names is not asked, as the host is not (RFC 9112, 3.2.2).
_ABSOLUTE: Final = re.compile(rb"\Ahttps?://[^/?#]+(?:/|(?=[?#])|\Z)", re.IGNORECASE)
_MAX_CACHED_TARGET_BYTES: Final = 512
_SERVER_DOCS: Final = frozenset(("docs", "openapi"))
_MODEL_DOCS: Final = frozenset(("model_docs", "model_openapi"))
# The second name is the one that MLServer gives it.
_OPENAPI: Final = frozenset(("openapi.json", "dataplane.json"))
_SERVER_PATHS: dict[tuple[str, ...], str] = {
    ("",): "alive",
    ("v2",): "server",
    ("v2", "health", "live"): "live",
    ("v2", "health", "ready"): "ready",
    ("v2", "docs"): "docs",
    **{("v2", "docs", name): "openapi" for name in _OPENAPI},
}


class Directory(NamedTuple):
    """What the routes ask of the data plane's state.

    ``unloaded`` gives the models that could be loaded, which are told to admins only.
    """

    find: Callable[[str], EndpointPlan | None]
    variant_ready: Callable[[str], bool]
    server_ready: Callable[[], bool]
    endpoints: Callable[[], list[EndpointPlan]]
    unloaded: Callable[[], tuple[str, ...]] = tuple

    def endpoint_for(self, name: str, principal: Principal) -> EndpointPlan:
        """Return an endpoint that the caller may ask.

        Raises ``EndpointNotFound``, ``Forbidden`` or ``QuotaExceeded``, or ``InvalidName`` of what
        none can be called; whoever may not ask is not told whether there is such an endpoint.
        """
        check_access(principal, name)
        endpoint = self.find(name)
        if endpoint is None or endpoint.tenant != principal.tenant:
            check_name(name, "endpoint")
            raise EndpointNotFound(
                f"no endpoint {name!r}; 'salver get endpoints' lists what is deployed"
            )
        return endpoint


class Extensions(Protocol):
    """Answers the paths of extensions."""

    @property
    def names(self) -> Sequence[str]:
        """What the extensions are called, which callers are told."""
        ...

    def __call__(self, message: HttpMessage, call: Call) -> None:
        """Answer a message; raises a ``SalverError`` to refuse it."""
        ...


class Routes:
    """Answers every message: finds its route, its caller, and what they may."""

    def __init__(
        self,
        inference: Inference,
        directory: Directory,
        keys: Keys,
        ids: RequestIds,
        refused: Callable[[str], None],
        gather: Callable[[HttpMessage, Reading], None] | None = None,
        extensions: Extensions | None = None,
    ) -> None:
        self._inference = inference
        self._gather = gather
        self._directory = directory
        self._keys = keys
        self._ids = ids
        self._refused = refused
        self._extensions = extensions
        self._cache: dict[bytes, Route] = {}

    def answer(self, message: HttpMessage) -> None:
        """Answer one message, now or later."""
        head = message.head
        if head is not None:
            reading = cast("Reading | None", head.reading)
            if reading is not None and reading.keys_number == self._keys.number:
                if self._gather is not None and reading.is_usual:
                    self._gather(message, reading)
                    return
                message.request_id = self._ids.make()
                self._inference(message, reading)
                return
        message.request_id = self._ids.make()
        try:
            route = self._cache.get(message.target)
            if route is None:
                route = self._resolve(message.target)
            if route.action == "infer" and message.method == b"POST":
                principal = self._keys.identify(message.headers, message.peer)
                reading = read_head(message.headers, route, principal, self._keys.number)
                if head is not None:
                    head.reading = reading
                self._inference(message, reading)
                return
            self._other(message, route)
        except SalverError as error:
            self.refuse(message, error)
        except Exception as error:  # a fault of ours must still be answered
            log.exception("request_failed", request_id=message.request_id)
            self.refuse(message, fault_of(error))

    def refuse(self, message: HttpMessage, error: SalverError) -> None:
        """Answer a request that got no further than here, and count it."""
        if not message.request_id:
            message.request_id = self._ids.make()
        message.head_only = message.method == b"HEAD"
        self._refused(error.code)
        headers = b""
        if isinstance(error, MethodNotAllowed):
            headers = b"Allow: %b\r\n" % self._allowed(message.target)
        message.fail(error, headers)

    def _allowed(self, raw: bytes) -> bytes:
        """Return the methods of a path, of any when it stands for nothing."""
        try:
            return self._resolve(raw).allowed
        except SalverError:
            return Route("").allowed

    def _resolve(self, raw: bytes) -> Route:
        route = parse_target(raw)
        if route.call is not None and self._extensions is None:
            raise RouteNotFound("this server has no extensions")
        if len(raw) <= _MAX_CACHED_TARGET_BYTES:
            if len(self._cache) >= _MAX_ROUTES:
                self._cache.clear()
            self._cache[raw] = route
        return route

    def _other(self, message: HttpMessage, route: Route) -> None:
        if message.method == b"OPTIONS":
            message.respond(200, (), headers=b"Allow: %b\r\n" % route.allowed)
        elif route.call is not None and self._extensions is not None:
            self._extensions(message, route.call)
        elif route.action == "infer":
            raise MethodNotAllowed("inference is asked with POST")
        elif message.method not in (b"GET", b"HEAD"):
            raise MethodNotAllowed("this path is asked with GET")
        else:
            message.head_only = message.method == b"HEAD"
            self._get(message, route)

    def _get(self, message: HttpMessage, route: Route) -> None:
        if route.action == "live":
            _reply(message, {"live": True})
        elif route.action == "alive":
            _reply(message, {"status": "alive"})
        elif route.action == "ready":
            ready = self._directory.server_ready()
            _reply(message, {"ready": ready}, 200 if ready else 503)
        elif route.action == "server":
            self._keys.identify(message.headers, message.peer)
            names = () if self._extensions is None else self._extensions.names
            _reply(message, server_metadata(names))
        elif route.action in _SERVER_DOCS:
            self._keys.identify(message.headers, message.peer)
            send_server_docs(message, as_page=route.action == "docs")
        elif route.action == "v1_list":
            principal = self._keys.identify(message.headers, message.peer)
            _reply(message, model_list(self._directory.endpoints(), principal))
        else:
            self._model(message, route, self._keys.identify(message.headers, message.peer))

    def _model(self, message: HttpMessage, route: Route, principal: Principal) -> None:
        name, version = route.target
        endpoint = self._directory.endpoint_for(name, principal)
        variant = variant_of(endpoint, version)
        if route.action == "metadata":
            _reply(message, model_metadata(endpoint, variant))
            return
        if route.action in _MODEL_DOCS:
            described = endpoint_document(endpoint, variant, version)
            send_docs(message, described, as_page=route.action == "model_docs")
            return
        if route.action == "v1_metadata":
            _reply(message, model_signatures(endpoint, variant))
            return
        ready = self._directory.variant_ready(variant.id)
        document: dict[str, object] = {"name": name, "ready": ready}
        if route.action == "v1_status":
            document |= model_status(endpoint, version, self._directory.variant_ready)
        _reply(message, document, 200 if ready else 503)


def parse_target(raw: bytes) -> Route:
    """Return the route of a request target; raises ``RouteNotFound`` or ``InvalidName``."""
    path = _ABSOLUTE.sub(b"/", raw, count=1).split(b"?", 1)[0].decode("latin-1")
    parts = [unquote(part) for part in path.strip("/").split("/")]
    action = _SERVER_PATHS.get(tuple(parts))
    if action is not None:
        return Route(action)
    match parts:
        case ["v1", "models", *rest]:
            return parse_v1(rest, path)
        case ["v2", *rest] if (call := parse_call(rest)) is not None:
            return Route(call.action, call=call)
        case ["v2", "models", name, *rest]:
            return _model_route(name, rest, path)
        case _:
            raise RouteNotFound(f"no such path: {path[:200]}")


def _model_route(name: str, rest: list[str], path: str) -> Route:
    version: str | None = None
    if rest[:1] == ["versions"] and len(rest) > 1:
        version, rest = rest[1], rest[2:]
    target = Target(check_name(name, "endpoint"), version)
    match rest:
        case []:
            return Route("metadata", target)
        case ["ready"]:
            return Route("model_ready", target)
        case ["infer"]:
            return Route("infer", target)
        case ["feedback"] if version is None:
            return Route("feedback", call=Call("feedback", (b"POST",), target.endpoint))
        case ["docs"]:
            return Route("model_docs", target)
        case ["docs", file] if file in _OPENAPI:
            return Route("model_openapi", target)
        case _:
            raise RouteNotFound(f"no such path: {path[:200]}")


def _reply(message: HttpMessage, document: dict[str, object], status: int = 200) -> None:
    message.respond(status, (orjson.dumps(document),))
