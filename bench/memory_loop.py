"""The gateway's path in memory: microseconds of Python per request, without sockets.

Run: `python -m bench.memory_loop [--connections N]`. Requests are written into the HTTP side's
buffers, the messages for the worker are dropped, and a prepared joint answer is read from its
link. What is left is everything a gateway does for a request but the system calls.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from typing import Any

import orjson

from bench.gateway_loop import FEATURES, plan
from salver.core.clock import SystemClock
from salver.core.exchange import ExchangeRing
from salver.core.garbage import settle
from salver.core.ids import RequestIds
from salver.core.settings import EngineSettings, HttpSettings, load_settings
from salver.core.timing import Timing
from salver.engine.client.handler import EngineClient
from salver.engine.client.link import WorkerLink
from salver.gateway.auth import Keys
from salver.gateway.http.connection import HttpConnection
from salver.gateway.http.server import HttpServer
from salver.gateway.limits.guards import Guards
from salver.gateway.oip.gather import Gatherer
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.routes import Directory, Routes
from salver.gateway.triton.statistics import Statistics
from salver.gateway.turn import Turn
from salver.gateway.validation import SignatureCheck
from salver.observe.exchanges import ExchangeMetrics
from salver.observe.meter import Meter
from salver.traffic.router import Router
from salver.wire.connection import Connection, LinkLimits
from salver.wire.framing import encode
from salver.wire.messages import PROTOCOL_VERSION, ChunkMany, Hello, TensorHeader, WorkerPlan
from salver.wire.transport import LinkOptions

ROUNDS, REQUESTS = 40, 4800


class Sink:
    """Transport that drops what is written."""

    def write(self, data: Any) -> None:
        """Drop."""

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        """Nothing is buffered."""

    def get_extra_info(self, name: str) -> None:
        """Nothing is known."""

    def is_closing(self) -> bool:
        """Never."""
        return False


def feed(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """Deliver bytes that fit into one read."""
    memoryview(protocol.get_buffer(-1))[: len(data)] = data
    protocol.buffer_updated(len(data))


def request() -> bytes:
    """Return one request: a row of numbers as JSON, with an API key."""
    data = [round(0.1 + i / 7, 6) for i in range(FEATURES)]
    item = {"name": "x", "shape": [1, FEATURES], "datatype": "FP32", "data": data}
    body = orjson.dumps({"inputs": [item]})
    head = (
        "POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
        "Content-Type: application/json\r\nAuthorization: Bearer 0123456789abcdef\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class InMemory:
    """A gateway's parts between callers and one worker's link."""

    def __init__(
        self, connections: int, *, gathers_turns: bool = True, guarded: bool = True
    ) -> None:
        clock, meter = SystemClock(), Meter()
        hello = Hello(PROTOCOL_VERSION, "gateway", "bench", "0")
        engine = EngineClient(hello, EngineSettings(), clock, meter, LinkOptions())
        limits = {"fair": guarded, "breaker": guarded}
        ejection = {} if guarded else {"eject_failures": 0, "eject_latency_ratio": 0.0}
        settings = load_settings({"engine": ejection, "limits": limits})
        guards = Guards(engine, settings, clock, meter)
        check = SignatureCheck(guards.handler, meter)
        router = Router(check, random.Random(0))
        self.link = WorkerLink(WorkerPlan("shared-0", "shared", "tcp://w:1"), hello, engine, clock)
        engine._links["shared-0"] = self.link
        engine._route(list(plan().endpoints[0].variants))
        check.apply(plan())
        router.apply(plan())
        self.ring = ExchangeRing(32 * 1024 * 1024)
        self.ring.subscribe(ExchangeMetrics(meter))
        for observer in guards.observers():
            self.ring.subscribe(observer)
        guards.apply(plan())
        self.ring.subscribe(Statistics(self.ring, router.endpoint, clock))
        inference = Inference(router, router.endpoint, self.ring, HttpSettings(), clock)
        directory = Directory(router.endpoint, lambda _: True, lambda: True, router.endpoints)
        ids = RequestIds(b"k" * 32, 1, clock)
        turn = Turn(inference, ids)
        gather = Gatherer(inference, turn, ids, HttpSettings()).add if gathers_turns else None
        routes = Routes(inference, directory, Keys(None), ids, lambda _: None, gather)
        server = HttpServer(HttpSettings(), clock, routes.answer)
        large = LinkLimits(1 << 30)
        self.worker = Connection(hello, self.link._accepted, initiator=True, limits=large)
        self.worker.connection_made(Sink())  # type: ignore[arg-type]
        feed(self.worker, encode(Hello(PROTOCOL_VERSION, "worker", "w", "0"), 0))
        self.link.ready = frozenset(["m:1"])
        self.callers = [HttpConnection(server) for _ in range(connections)]
        self.answered = 0
        for caller in self.callers:
            caller.connection_made(Sink())  # type: ignore[arg-type]

    async def turn(self, data: bytes) -> None:
        """Let every caller ask once, and answer them together."""
        for caller in self.callers:
            caller.data_received(data)
        await asyncio.sleep(0)
        ids = tuple(range(self.answered + 1, self.link._last_id + 1))
        self.answered = self.link._last_id
        header = (TensorHeader("y", "FP32", (1, 2), 8),)
        answer = ChunkMany(ids, header, (1000,) * len(ids), Timing(0, 0, 5000, 0, len(ids)))
        feed(self.worker, encode(answer, 8 * len(ids)) + b"abc?abc?" * len(ids))


async def measure(connections: int, *, gathers_turns: bool, guarded: bool) -> float:
    """Return the least microseconds per request over some rounds."""
    settle()
    path, data = InMemory(connections, gathers_turns=gathers_turns, guarded=guarded), request()
    turns, best = REQUESTS // connections, float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(turns):
            await path.turn(data)
        path.ring.drain()
        best = min(best, (time.process_time() - begin) / turns / connections)
    return best * 1e6


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=16, help="at least 2 (default 16)")
    parser.add_argument("--one-by-one", action="store_true", help="with http.gather off")
    parser.add_argument("--unguarded", action="store_true", help="without breakers and turns")
    options = parser.parse_args()
    connections, gathers_turns = max(1, options.connections), not options.one_by_one
    guarded = not options.unguarded
    figure = asyncio.run(measure(connections, gathers_turns=gathers_turns, guarded=guarded))
    print(f"{figure:.2f} us per request at {options.connections} connections")


if __name__ == "__main__":
    main()
