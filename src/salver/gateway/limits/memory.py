"""What a gateway does when memory gets short."""

from salver.core.exchange import ExchangeRing
from salver.core.garbage import give_back
from salver.core.settings import LimitSettings
from salver.gateway.http.server import HttpServer
from salver.gateway.limits.access import Access
from salver.observe.memory import memory_share
from salver.observe.meter import Meter
from salver.observe.pressure import REFUSE, REFUSE_LARGE, SHRINK, MemoryGuard


def gateway_guard(
    server: HttpServer,
    access: Access,
    ring: ExchangeRing,
    settings: LimitSettings,
    meter: Meter,
    identity: str,
) -> MemoryGuard:
    """Return a guard that shrinks, then refuses large bodies, then every inference."""
    share = memory_share(settings.gateway_memory_bytes, with_group=settings.watch_group)
    guard = MemoryGuard(share, server.clock, meter, ("gateway", identity))
    guard.on(SHRINK, "heads", server.forget_heads)
    guard.on(SHRINK, "payloads", server.memory.forget)
    guard.on(SHRINK, "exchanges", ring.drain)
    guard.on(SHRINK, "garbage", give_back)
    guard.on(REFUSE_LARGE, "large_bodies", server.memory.refuse, server.memory.admit)
    guard.on(REFUSE, "requests", access.close, access.open)
    return guard
