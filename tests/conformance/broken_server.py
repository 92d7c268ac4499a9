"""A tiny correct OIP server on a thread, and one way in which it is broken on purpose."""

import json
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import unquote

from tests.conformance.oip_model import (
    MODEL,
    VERSION,
    Model,
    Refused,
    Reply,
    configuration,
    metadata,
    statistics,
)

EXTENSIONS = ["binary_tensor_data", "statistics", "model_configuration", "model_repository"]

SERVER_ROUTES: dict[str, tuple[str, Any]] = {
    "": ("server", {"name": "tiny", "version": "0", "extensions": EXTENSIONS}),
    "health/live": ("live", {"live": True}),
    "health/ready": ("ready", {"ready": True}),
    "repository/index": ("index", [{"name": MODEL, "version": VERSION, "state": "READY"}]),
}

Edit = Callable[[Reply], object]


@dataclass(frozen=True, slots=True)
class Break:
    """One defect: demands left out, or an edit of the replies of one route.

    ``check`` is the check that must find it.
    """

    check: str
    faults: frozenset[str] = frozenset()
    route: str = ""
    edit: Edit | None = None


WHOLE = Break("")


class _Http(ThreadingHTTPServer):
    """The listener, which knows whose it is."""

    daemon_threads = True
    block_on_close = False
    tiny: "TinyServer"


class _Handler(BaseHTTPRequestHandler):
    """Reads one request and writes its reply."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        """Answer without a body."""
        self._answer(b"")

    def do_POST(self) -> None:
        """Answer a body."""
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _answer(self, body: bytes) -> None:
        tiny = cast("_Http", self.server).tiny
        length = self.headers.get("Inference-Header-Content-Length")
        if tiny.key and self.headers["Authorization"] != f"Bearer {tiny.key}":
            reply = Reply({"error": "no such key"}, 401)
        elif self.command == "POST" and not tiny.reads(self.headers["Content-Type"]):
            reply = Reply({"error": "no such type"}, 415)
        else:
            reply = tiny.reply(self.command, self.path, body, length)
        self._write(reply, closes="closes" in tiny.defect.faults)

    def _write(self, reply: Reply, *, closes: bool) -> None:
        body = reply.body
        if body is None:
            body = json.dumps(reply.document).encode() + reply.raw
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if closes:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


class TinyServer:
    """The server; a context manager. ``key`` is what callers must send, if any."""

    def __init__(self, defect: Break = WHOLE, key: str = "") -> None:
        self.defect = defect
        self.key = key
        self.model = Model(defect.faults)
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.tiny = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def reads(self, content_type: str | None) -> bool:
        """Tell whether a body of this type is read."""
        return content_type is not None or "wants a type" not in self.defect.faults

    def reply(self, method: str, path: str, body: bytes, length: str | None) -> Reply:
        """Return the reply to a request, broken as asked."""
        route = ""
        try:
            route, reply = self._route(method, [unquote(part) for part in path.split("/")[1:]])
            if reply is None:
                reply = self.model.infer(body, length)
        except Refused as error:
            route, reply = f"{route} error".strip(), Reply({"error": str(error)}, error.status)
        edit = self.defect.edit
        if edit is not None and self.defect.route == route:
            edit(reply)
        return reply

    def _route(self, method: str, parts: list[str]) -> tuple[str, Reply | None]:
        """Return the route's name and its reply; inference has none yet."""
        match parts:
            case ["v2", "models", name, "versions", version, *rest]:
                self.model.demand("unknown version", version == VERSION)
                route, reply = self._model(method, name, rest)
                return f"{route} of version", reply
            case ["v2", "models", name, *rest]:
                return self._model(method, name, rest)
            case ["v2", *rest] if "/".join(rest) in SERVER_ROUTES:
                route, document = SERVER_ROUTES["/".join(rest)]
                return route, Reply(deepcopy(document))
        self.model.demand("unknown path", False)
        return "other", Reply({})

    def _model(self, method: str, name: str, rest: list[str]) -> tuple[str, Reply | None]:
        if name != MODEL and name.lower() == MODEL.lower():
            self.model.demand("name case", False)
        elif name != MODEL:
            self.model.demand(f"unknown model {rest[0] if rest else 'metadata'}", False)
        if rest == ["infer"]:
            self.model.demand("method", method == "POST")
            return "infer", None if method == "POST" else Reply({})
        routes: dict[str, tuple[str, Any]] = {
            "": ("metadata", metadata()),
            "ready": ("model ready", {"name": MODEL, "ready": True}),
            "stats": ("stats", statistics(self.model.count)),
            "config": ("config", configuration()),
        }
        if "/".join(rest) not in routes:
            raise Refused(404, "no such path")
        route, document = routes["/".join(rest)]
        return route, Reply(deepcopy(document))
