"""Puts a gateway together: server, routes, router, checks, engine client, follower."""

import asyncio
import os
import random
import socket
from dataclasses import dataclass
from pathlib import Path

from salver.core.clock import Clock
from salver.core.exchange import ExchangeRing, Subscriber
from salver.core.feedback import Taken
from salver.core.ids import RequestIds
from salver.core.settings import Settings
from salver.core.tls import ReloadingContext, ServerTls
from salver.engine.client.handler import EngineClient
from salver.gateway.admin import AdminServer
from salver.gateway.auth import Keys
from salver.gateway.evidence import EvidenceCounter
from salver.gateway.feedback.route import FeedbackRoute
from salver.gateway.grpc.application import GrpcApplication
from salver.gateway.grpc.dialogue import Limits
from salver.gateway.grpc.gather import CallGatherer
from salver.gateway.grpc.infer import GrpcInference
from salver.gateway.grpc.services.all import services_of
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.rest import Rest
from salver.gateway.http.memory import PayloadMemory
from salver.gateway.http.server import HttpServer
from salver.gateway.limits.access import Access
from salver.gateway.limits.address import naming_of
from salver.gateway.limits.guards import Guards
from salver.gateway.limits.memory import gateway_guard
from salver.gateway.oip.gather import Gatherer
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.routes import Directory, Routes
from salver.gateway.triton.changes import Changes
from salver.gateway.triton.documents import Documents
from salver.gateway.triton.routes import TritonExtensions
from salver.gateway.triton.statistics import Statistics
from salver.gateway.turn import Turn, gathers
from salver.gateway.validation import SignatureCheck
from salver.observe.exchanges import ExchangeMetrics
from salver.observe.facts import Facts
from salver.observe.fading import KEPT_S, Fading
from salver.observe.faults import FaultLog
from salver.observe.logs import get_logger
from salver.observe.memory import resident_bytes
from salver.observe.meter import Meter
from salver.observe.prometheus import render
from salver.traffic.busy import Busy
from salver.traffic.cache import ResponseCache
from salver.traffic.router import Router
from salver.traffic.shadow import Shadows
from salver.wire.follower import PlanFollower
from salver.wire.messages import PROTOCOL_VERSION, Change, Hello, Plan, Report, Snapshot
from salver.wire.transport import LinkOptions

log = get_logger(__name__)

_IN_FLIGHT = "salver_requests_in_flight"
_FILES_CHECK_S = 1.0
_LATER_S = 3600.0


@dataclass(frozen=True, slots=True)
class GatewayIdentity:
    """Who this gateway is and where it finds things; ``gateways`` is how many share the work."""

    id: str
    incarnation: str
    home: Path
    id_key: bytes
    api_keys: Path | None = None
    token: str = ""
    tls: ServerTls | None = None
    gateways: int = 1


class Gateway:
    """Component of one gateway process."""

    def __init__(
        self, identity: GatewayIdentity, settings: Settings, clock: Clock, rng: random.Random
    ) -> None:
        self._identity, self._settings, self._clock = identity, settings, clock
        # Later than control leaves them out, so that no total is seen to fall.
        self._meter, self._fading = (meter := Meter()), Fading(KEPT_S + _LATER_S)
        self._keys = Keys(identity.api_keys)
        hello = Hello(
            PROTOCOL_VERSION, "gateway", identity.id, identity.incarnation, identity.token
        )
        memory = PayloadMemory(settings.http.kept_memory_bytes)
        links = LinkOptions(
            max_frame_bytes=settings.engine.max_frame_bytes,
            coalesce=settings.engine.coalesce,
            allocate=memory.answer,
        )
        self._engine = EngineClient(hello, settings.engine, clock, meter, links)
        self._guards = Guards(self._engine, settings, clock, meter)
        self._cache = ResponseCache(self._guards.handler, meter, settings.engine.cache_bytes, clock)
        self._check = SignatureCheck(self._cache, meter)
        ids = RequestIds(identity.id_key, rng.getrandbits(16), clock)
        self._busy = Busy(clock)
        self._shadows = Shadows(self._check, settings.shadow, meter, clock, rng, self._busy)
        self._router = Router(self._shadows, rng, ids)
        self._ring = ExchangeRing(settings.observe.exchange_ring_bytes)
        router, access = self._router, Access(settings.limits, clock, identity.gateways)
        inference = Inference(router, router.endpoint, self._ring, settings.http, clock, access)
        directory = Directory(
            router.endpoint,
            self._engine.is_ready,
            self._is_ready,
            router.endpoints,
            lambda: self._unloaded,
        )
        turn = Turn(inference, ids) if gathers(settings.http) else None
        gather = None if turn is None else Gatherer(inference, turn, ids, settings.http).add
        statistics = Statistics(self._ring, self._router.endpoint, clock)
        self._evidence = EvidenceCounter(clock, rng)
        metrics, faults = ExchangeMetrics(meter), FaultLog(clock)
        own: list[Subscriber] = [metrics, faults, statistics, self._evidence]
        for observer in own + self._guards.observers():
            self._ring.subscribe(observer)
        documents = Documents(directory, statistics, settings.observe.log_level)
        ask = self._ask if settings.http.repository_changes else None
        self._changes = changes = Changes(ask, settings.control.deploy_timeout_s)
        extensions = FeedbackRoute(
            TritonExtensions(documents, self._keys, changes),
            inference,
            self._keys,
            self._report if settings.http.feedback else None,
        )
        routes = Routes(inference, directory, self._keys, ids, self._refused, gather, extensions)
        self._server = HttpServer(settings.http, clock, routes.answer, routes.refuse, memory)
        self._memory = gateway_guard(
            self._server, access, self._ring, settings.limits, meter, identity.id
        )
        if settings.http2.enabled:
            rest = Rest(routes.answer, routes.refuse)
            calls = GrpcInference(inference, settings.http)
            usual = None if turn is None else CallGatherer(inference, calls, turn)
            services = services_of(calls, directory, documents, changes, self._keys, ids)
            front = Limits(settings.http, settings.http2, clock)
            grpc = GrpcApplication(rest, calls, services, self._keys, ids, front, usual)
            server, limits = self._server, settings.http2
            server.successor = lambda peer: Http2Connection(server, limits, grpc, peer)
        self._server.naming = naming_of(
            settings.limits, identity.id_key, has_keys=identity.api_keys is not None
        )
        self._context = self._certificates()
        self._admin = AdminServer(settings.http, clock, self._metrics)
        self._facts = Facts(identity.home / "run" / f"{identity.id}.json")
        self._follower = self._follow(hello)
        self._unloaded: tuple[str, ...] = ()
        self._snapshots, self._counted = 0, set[str]()
        self._state = "starting"
        self._tasks: list[asyncio.Task[None]] = []

    def _certificates(self) -> ReloadingContext | None:
        if self._identity.tls is None:
            return None
        context = ReloadingContext(self._identity.tls, http2=self._settings.http2.enabled)
        self._server.context = lambda: context.context
        return context

    def _follow(self, hello: Hello) -> PlanFollower:
        identity, settings = self._identity, self._settings
        follower = PlanFollower(
            identity.home / "run" / "plan.msgpack",
            f"unix:{identity.home / 'run' / 'control.sock'}",
            hello,
            self.apply,
            self.snapshot,
            settings.control.snapshot_interval_s,
            self._evidence.messages,
        )
        # A control that is new begins to count the time of versions that are gone anew.
        follower.linked = lambda: self._fading.begin_anew(self._clock.monotonic_ns())
        return follower

    async def provision(self) -> None:
        """Read the API keys and certificates; raises ``InvalidSettings``."""
        self._shadows.open_requests = self._engine.open_requests
        self._server.identify = self._keys.identify
        self._keys.provision()
        if self._context is not None:
            self._context.provision()

    async def start(self, *listening: socket.socket) -> None:
        """Answer on sockets that are already bound."""
        loop = asyncio.get_running_loop()
        self._ring.drain_soon = lambda: loop.call_soon(self._ring.drain)
        await self._engine.start()
        await self._follower.start()
        await self._server.start(*listening)
        port = await self._admin.start()
        facts = {"pid": os.getpid(), "admin_url": f"http://127.0.0.1:{port}"}
        self._facts.start(facts)
        self._state = "ready"
        self._tasks = [
            asyncio.create_task(self._drain_ring()),
            asyncio.create_task(self._watch_files()),
            asyncio.create_task(self._memory.watch()),
            asyncio.create_task(self._busy.watch()),
        ]
        self._follower.poke()

    async def drain(self, timeout_s: float) -> None:
        """Close the listener first, then finish what was accepted."""
        self._state = "draining"
        self._changes.drain()
        await self._server.drain(timeout_s)

    async def stop(self) -> None:
        """Report the last counts and close everything."""
        for task in self._tasks:
            task.cancel()
        await self._facts.stop()
        await self._server.stop()
        self._ring.drain()
        await self._follower.stop()
        self._guards.stop()
        await self._engine.stop()
        await self._admin.stop()

    def apply(self, plan: Plan) -> None:
        """Act on this plan from now on."""
        self._engine.apply(plan)
        self._guards.apply(plan)
        self._cache.apply(plan)
        self._check.apply(plan)
        self._shadows.apply(plan)
        self._evidence.apply(plan)
        self._router.apply(plan)
        self._unloaded = plan.unloaded
        planned = {variant.id for each in plan.endpoints for variant in each.variants}
        if faded := self._fading.after(planned, self._clock.monotonic_ns()):
            self._meter.forget_variants(faded)

    def snapshot(self) -> Snapshot:
        """Return what this gateway knows of itself."""
        self._ring.drain()
        self._snapshots += 1
        identity, rss, meter = self._identity, resident_bytes(), self._meter
        meter.set("salver_process_resident_bytes", ("gateway", identity.id), rss)
        meter.set("salver_plan_number", (identity.id,), self._follower.plan_number)
        meter.set("salver_connections", (), self._server.connections)
        self._guards.report()
        self._engine.report()
        self._count_in_flight()
        return Snapshot(
            self._snapshots,
            self._follower.plan_number,
            os.getpid(),
            self._state,
            rss,
            (),
            meter.counters(),
            meter.gauges(),
            meter.histograms(),
            self._engine.notes.newest(),
        )

    def _count_in_flight(self) -> None:
        meter, gone = self._meter, self._counted
        self._counted = set()
        for endpoint in self._router.endpoints():
            count = sum(self._engine.open_requests(v.id) for v in endpoint.variants)
            meter.set(_IN_FLIGHT, (endpoint.name,), count)
            self._counted.add(endpoint.name)
        for name in gone - self._counted:
            meter.forget(_IN_FLIGHT, (name,))

    async def _ask(self, change: Change, timeout_s: float) -> None:
        await self._follower.ask(change, timeout_s)

    async def _report(self, report: Report, timeout_s: float) -> Taken:
        return await self._follower.report(report, timeout_s)

    def _is_ready(self) -> bool:
        return self._state == "ready" and self._follower.plan is not None

    def _refused(self, code: str) -> None:
        self._meter.add("salver_http_refused_total", (code,))

    def _metrics(self) -> bytes:
        snapshot = self.snapshot()
        return render(snapshot.counters, snapshot.gauges, snapshot.histograms)

    async def _drain_ring(self) -> None:
        while True:
            await asyncio.sleep(self._settings.observe.drain_interval_s)
            self._ring.drain()

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(_FILES_CHECK_S)
            try:
                self._reload_files()
            except Exception:  # revoked keys must not stay valid for a fault of one look
                log.exception("files_not_reloaded")

    def _reload_files(self) -> None:
        error = self._keys.reload()
        if error is not None:
            log.error("api_keys_not_reloaded", cause=error.message)
        error = self._context.reload() if self._context is not None else None
        if error is not None:
            log.error("certificates_not_reloaded", cause=error.message)
