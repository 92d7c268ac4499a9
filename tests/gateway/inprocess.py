"""A gateway's HTTP side in this process, with a handler that computes instead of an engine."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import uvloop

from salver.core.clock import SystemClock
from salver.core.context import RequestContext
from salver.core.errors import ModelFailed
from salver.core.exchange import Exchange, ExchangeRing, JointExchange, Record
from salver.core.handler import Handler, Responder, answer_jointly
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse
from salver.core.settings import Http2Settings, HttpSettings, LimitSettings
from salver.core.signature import Column, Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.core.tls import ReloadingContext, ServerTls
from salver.gateway.auth import Keys
from salver.gateway.feedback.route import FeedbackRoute, Tell
from salver.gateway.grpc.application import GrpcApplication
from salver.gateway.grpc.dialogue import Limits
from salver.gateway.grpc.gather import CallGatherer
from salver.gateway.grpc.infer import GrpcInference
from salver.gateway.grpc.services.all import services_of
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.rest import Rest
from salver.gateway.http.server import HttpServer
from salver.gateway.limits.access import Access
from salver.gateway.limits.address import naming_of
from salver.gateway.oip.gather import Gatherer
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.routes import Directory, Routes
from salver.gateway.triton.changes import Ask, Changes
from salver.gateway.triton.documents import Documents
from salver.gateway.triton.routes import TritonExtensions
from salver.gateway.triton.statistics import Statistics
from salver.gateway.turn import Turn, gathers
from salver.gateway.validation import SignatureCheck
from salver.observe.meter import Meter
from salver.traffic.router import Router
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
)  # fmt: skip


def endpoint(name: str, signature: Signature, validation: str = "off") -> EndpointPlan:
    """Return an endpoint with one variant."""
    variant = VariantPlan(
        f"{name}:1", "primary", name, "1", "0" * 64, "test", 10_000, 1, signature, ("shared-0",)
    )
    return EndpointPlan(name, (variant,), validation=validation)


def identity_signature(datatype: str) -> Signature:
    """Return the signature of a model that gives back what it gets."""
    return Signature((TensorSpec("x", datatype, (-1, -1)),), (TensorSpec("y", datatype, (-1, -1)),))


RANGED = Signature(
    (TensorSpec("x", "FP32", (-1, 2), (Column("age", minimum=0, maximum=120), Column("height"))),),
    (TensorSpec("y", "FP32", (-1, 2)),),
)
TWO = Signature(
    (TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))),
    (TensorSpec("sum", "FP32", (-1,)), TensorSpec("difference", "FP32", (-1,))),
)
LABELLED = Signature(
    (TensorSpec("x", "FP32", (-1, 3)),),
    (TensorSpec("y", "FP32", (-1, 3), (Column("apple"), Column("pear"), Column("plum"))),),
)
PLAN = Plan(
    1,
    0,
    (
        *(endpoint(f"identity-{name.lower()}", identity_signature(name)) for name in DATATYPES),
        endpoint("two", TWO),
        endpoint("strict", RANGED, "reject"),
        endpoint("lenient", RANGED, "warn"),
        endpoint("hidden", TWO),
        endpoint("labelled", LABELLED),
        msgspec.structs.replace(endpoint("elsewhere", TWO), tenant="others"),
        EndpointPlan("loading", (), reason="its model is still loading"),
        EndpointPlan("foreign", endpoint("foreign", TWO).variants, tenant="other"),
    ),
)


class Computer:
    """The last handler: identity, sums, and whatever a test wants to go wrong.

    ``held`` requests wait until ``release`` or ``release_jointly`` is called.
    """

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []
        self.waiting: list[tuple[InferenceRequest, Responder]] = []
        self.contexts: list[RequestContext] = []
        self.hold = False

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer now, or when released."""
        self.contexts.append(context)
        if self.hold:
            self.held.append(lambda: self._answer(request, responder))
            self.waiting.append((request, responder))
        else:
            self._answer(request, responder)

    def _stream(self, widths: str, responder: Responder) -> None:
        """Answer in chunks of one row each, as wide as is asked, and an empty one at the end."""
        for width in widths.split(","):
            tensor = Tensor.from_array("y", np.full((1, int(width)), 1, np.float32))
            responder.send(InferenceResponse([tensor]), final=False)
        responder.send(InferenceResponse([], Timing()), final=True)

    def answer_jointly(self) -> None:
        """Answer what was held, identity models with one row each, as an engine does."""
        waiting, self.waiting, self.held = self.waiting, [], []
        arrays = [request.inputs[0].array() for request, _ in waiting]
        stacked = Tensor.from_array("y", np.concatenate(arrays))
        timings = [Timing(queue_ns=number) for number in range(len(waiting))]
        response = JointResponse([stacked], 1, timings)
        answer_jointly([responder for _, responder in waiting], response)

    def _answer(self, request: InferenceRequest, responder: Responder) -> None:
        arrays = {tensor.name: tensor.array() for tensor in request.inputs}
        if "a" in arrays:
            outputs = {"sum": arrays["a"] + arrays["b"], "difference": arrays["a"] - arrays["b"]}
        else:
            outputs = {"y": arrays["x"]}
        if request.parameters and request.parameters.get("chunks"):
            self._stream(request.parameters["chunks"], responder)
            return
        if request.parameters and request.parameters.get("fail"):
            responder.fail(ModelFailed("it was asked to fail"))
            return
        wanted = request.outputs or tuple(outputs)
        tensors = [Tensor.from_array(name, np.asarray(outputs[name])) for name in wanted]
        responder.send(InferenceResponse(tensors))


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class RunningServer:
    """The HTTP side on a thread and event loop of its own; a context manager."""

    def __init__(
        self,
        settings: HttpSettings | None = None,
        keys: Path | None = None,
        last: Handler | None = None,
        http2: Http2Settings | None = None,
        plan: Plan = PLAN,
        tls: ServerTls | None = None,
        ask: Ask | None = None,
        limits: LimitSettings | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.ask = ask
        self.tell = tell
        self.limits = limits or LimitSettings()
        self.settings = settings or HttpSettings()
        self.http2 = http2 or Http2Settings()
        self.last = last
        self.plan = plan
        self.computer = Computer()
        self.exchanges: list[Exchange] = []
        self.meter = Meter()
        self.keys = self._keys = Keys(keys)
        self.has_keys = keys is not None
        http2_too = self.http2.enabled
        self.context = ReloadingContext(tls, http2=http2_too) if tls is not None else None
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self.ready = True
        self.serving = True
        self.server: HttpServer | None = None

    def __enter__(self) -> Self:
        """Start."""
        self._keys.provision()
        if self.context is not None:
            self.context.provision()
        self._thread.start()
        self.call(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        assert self.server is not None
        self.call(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, work: Any) -> Any:
        """Run a coroutine on the server's loop and return its result."""
        return self.begin(work).result(timeout=30)

    def begin(self, work: Any) -> "Future[Any]":
        """Begin to run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, act: Callable[[], object]) -> None:
        """Do something on the server's loop."""

        async def once() -> None:
            act()

        self.call(once())

    def busy(self) -> threading.Event:
        """Keep the server's loop busy until the event is set."""
        event, begun = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            event.wait(10)

        self._loop.call_soon_threadsafe(wait)
        begun.wait(10)
        return event

    def apply(self, plan: Plan) -> None:
        """Act on a plan; to be called on the server's loop."""
        self.check.apply(plan)
        self.router.apply(plan)

    def release(self) -> None:
        """Answer what was held."""
        held, self.computer.held = self.computer.held, []
        for answer in held:
            self._loop.call_soon_threadsafe(answer)

    def release_jointly(self) -> None:
        """Answer what was held by one joint response."""
        self._loop.call_soon_threadsafe(self.computer.answer_jointly)

    def _record(self, records: list[Record]) -> None:
        for record in records:
            self.exchanges += record.each() if isinstance(record, JointExchange) else [record]

    async def _start(self) -> None:
        clock = SystemClock()
        check = SignatureCheck(self.last or self.computer, self.meter)
        self.ids = ids = RequestIds(b"k" * 32, 1, clock)
        router = Router(check, random.Random(0), ids)
        self.router, self.check = router, check
        self.apply(self.plan)
        ring = ExchangeRing(1024 * 1024)
        ring.subscribe(self._record)
        self.ring = ring
        access = Access(self.limits, clock)
        self.inference = inference = Inference(
            router, router.endpoint, ring, self.settings, clock, access
        )
        directory = Directory(
            router.endpoint,
            lambda _: self.ready,
            lambda: self.serving,
            router.endpoints,
            lambda: self.plan.unloaded,
        )
        self.turn = turn = Turn(inference, ids)
        self.gatherer = gatherer = Gatherer(inference, turn, ids, self.settings)
        gather = gatherer.add if gathers(self.settings) else None
        statistics = Statistics(ring, router.endpoint, clock)
        ring.subscribe(statistics)
        documents = Documents(directory, statistics, "info")
        self.changes = changes = Changes(self.ask, 5.0)
        triton = TritonExtensions(documents, self._keys, changes)
        extensions = FeedbackRoute(triton, inference, self._keys, self.tell)
        self.routes = routes = Routes(
            inference, directory, self._keys, ids, lambda _: None, gather, extensions
        )
        self.server = server = HttpServer(self.settings, clock, routes.answer, routes.refuse)
        server.identify = self._keys.identify
        rest = Rest(routes.answer, routes.refuse)
        calls = GrpcInference(inference, self.settings)
        usual = CallGatherer(inference, calls, turn) if gathers(self.settings) else None
        self.services = services = services_of(
            calls, directory, documents, changes, self._keys, ids
        )
        front = Limits(self.settings, self.http2, clock)
        grpc = GrpcApplication(rest, calls, services, self._keys, ids, front, usual)
        if self.http2.enabled:
            server.successor = lambda peer: Http2Connection(server, self.http2, grpc, peer)
        server.naming = naming_of(self.limits, b"k" * 32, has_keys=self.has_keys)
        if (context := self.context) is not None:
            server.context = lambda: context.context
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        await self.server.start(listening)


def exchange_bytes(port: int, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send bytes on a new connection, say that no more come, and return all that is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """Return everything until the other side closes."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def post(path: str, body: bytes, *headers: str, close: bool = True) -> bytes:
    """Return the bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def split_reply(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of one response."""
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(status_line.split()[1]), headers, body
