"""A large tensor crosses the gateway in the memory that the sockets filled, both ways."""

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
import uvloop

from salver.core.clock import SystemClock
from salver.core.exchange import ExchangeRing
from salver.core.ids import RequestIds
from salver.core.settings import EngineSettings, HttpSettings
from salver.core.signature import Signature, TensorSpec
from salver.engine.client.handler import EngineClient
from salver.engine.memory import uninitialised
from salver.gateway.auth import Keys
from salver.gateway.http.connection import HttpConnection
from salver.gateway.http.server import HttpServer
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.routes import Directory, Routes
from salver.gateway.validation import SignatureCheck
from salver.observe.meter import Meter
from salver.traffic.router import Router
from salver.wire.connection import Connection, LinkLimits
from salver.wire.framing import encode
from salver.wire.messages import (
    PROTOCOL_VERSION,
    Chunk,
    EndpointPlan,
    Hello,
    Plan,
    TensorHeader,
    VariantPlan,
    WorkerPlan,
)
from salver.wire.transport import LinkOptions

COUNT = 1_000_000
SIZE = 4 * COUNT
SHAPE = TensorSpec("x", "FP32", (-1, COUNT))


class Wire:
    """Transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.protocol: asyncio.Protocol | asyncio.BufferedProtocol = asyncio.Protocol()

    def carry(self, protocol: asyncio.Protocol | asyncio.BufferedProtocol) -> None:
        """Begin to deliver to a protocol."""
        self.set_protocol(protocol)
        protocol.connection_made(self)  # type: ignore[arg-type]

    def set_protocol(self, protocol: asyncio.Protocol | asyncio.BufferedProtocol) -> None:
        """Deliver to this one from now on."""
        self.protocol = protocol

    def write(self, data: Any) -> None:
        """Keep one piece."""
        self.written.append(data)

    def writelines(self, parts: Iterable[Any]) -> None:
        """Keep pieces as they are given."""
        self.written += parts

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """Nothing is buffered."""
        return 0

    def get_extra_info(self, name: str) -> None:
        """Nothing is known."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def abort(self) -> None:
        """What is sent here is in order."""
        raise AssertionError("the link was aborted")

    close = pause_reading = resume_reading = abort

    def large(self) -> Any:
        """Return the one large piece."""
        (piece,) = [part for part in self.written if len(part) >= SIZE]
        return piece


def feed(wire: Wire, data: bytes) -> list[memoryview]:
    """Deliver bytes as a socket does; returns the memory that the receiver gave for them."""
    used: list[memoryview] = []
    while data:
        protocol = wire.protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            room = memoryview(protocol.get_buffer(-1))
            count = min(len(room), len(data), 256 * 1024)
            room[:count] = data[:count]
            used.append(room)
            protocol.buffer_updated(count)
        else:
            count = min(len(data), 256 * 1024)
            protocol.data_received(data[:count])
        data = data[count:]
    return used


def gateway() -> tuple[HttpConnection, Wire, Connection, Wire]:
    """Put the whole path together between two transports."""
    clock, meter = SystemClock(), Meter()
    hello = Hello(PROTOCOL_VERSION, "gateway", "gateway-0", "1")
    variant = VariantPlan(
        "m:1", "primary", "m", "1", "0", "test", 10_000, 1, Signature((SHAPE,), (SHAPE,)), ("w",)
    )
    plan = Plan(1, 0, (EndpointPlan("m", (variant,)),), (WorkerPlan("w", "shared", "tcp://h:1"),))
    engine = EngineClient(hello, EngineSettings(), clock, meter, LinkOptions())
    check = SignatureCheck(engine, meter)
    router = Router(check, random.Random(0))
    for part in (engine, check, router):
        part.apply(plan)
    (link,) = engine._links.values()
    limits = LinkLimits(1 << 30, allocate=uninitialised)
    to_worker, worker_wire = (
        Connection(hello, link._accepted, initiator=True, limits=limits),
        Wire(),
    )
    worker_wire.carry(to_worker)
    feed(worker_wire, encode(Hello(PROTOCOL_VERSION, "worker", "w", "2"), 0))
    link.ready = frozenset(["m:1"])
    ring = ExchangeRing(1 << 20)
    inference = Inference(router, router.endpoint, ring, HttpSettings(), clock)
    directory = Directory(router.endpoint, lambda _: True, lambda: True, router.endpoints)
    ids = RequestIds(b"k" * 32, 1, clock)
    routes = Routes(inference, directory, Keys(None), ids, lambda _: None)
    client, client_wire = HttpConnection(HttpServer(HttpSettings(), clock, routes.answer)), Wire()
    client_wire.carry(client)
    return client, client_wire, to_worker, worker_wire


def request() -> bytes:
    """Return a request with one large tensor behind its JSON, answered in the same way."""
    item = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, COUNT],
        "parameters": {"binary_data_size": SIZE},
    }
    json = orjson.dumps({"inputs": [item], "parameters": {"binary_data_output": True}})
    head = (
        "POST /v2/models/m/infer HTTP/1.1\r\nHost: test\r\n"
        f"Inference-Header-Content-Length: {len(json)}\r\n"
        f"Content-Length: {len(json) + SIZE}\r\n\r\n"
    )
    return head.encode() + json + np.arange(COUNT, dtype=np.float32).tobytes()


def same_memory(one: Any, other: Any) -> bool:
    """Tell whether two buffers lie in the same memory."""
    return bool(np.shares_memory(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)))


def test_no_copy_between_the_sockets() -> None:
    """What goes to the worker is where the client's bytes arrived; the answer likewise."""

    async def run() -> None:
        client, client_wire, to_worker, worker_wire = gateway()
        arrived = feed(client_wire, request())[-1]
        await asyncio.sleep(0)
        sent = worker_wire.large()
        assert same_memory(sent, arrived)
        assert bytes(sent[-8:]) == np.arange(COUNT, dtype=np.float32)[-2:].tobytes()
        header = TensorHeader("x", "FP32", (1, COUNT), SIZE)
        answer = np.full(COUNT, 7, np.float32).tobytes()
        frame = encode(Chunk(1, 0, True, (header,)), SIZE) + answer
        received = feed(worker_wire, frame)[-1]
        delivered = client_wire.large()
        assert same_memory(delivered, received)
        assert bytes(delivered) == answer
        del client, to_worker

    uvloop.run(run())
