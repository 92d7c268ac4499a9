"""Who asks, until when, and how the asking is tracked."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import msgspec

from salver.core.errors import InvalidSettings

DEFAULT_TENANT = "default"
_MIN_PER_S = 1e-6


class Rate(NamedTuple):
    """How often a caller may ask: ``burst`` times at once, ``per_s`` a second in the long run."""

    per_s: float
    burst: int

    @classmethod
    def checked(cls, per_s: float, burst: int | None, where: str) -> Self:
        """Return a rate; without a burst it is what the rate allows in a second.

        Raises ``InvalidSettings`` that begins with ``where``.
        """
        if not (math.isfinite(per_s) and per_s >= _MIN_PER_S):
            raise InvalidSettings(f"{where}: a rate is a number from {_MIN_PER_S}, not {per_s!r}")
        if burst is None:
            burst = max(1, math.ceil(per_s))
        if burst < 1:
            raise InvalidSettings(f"{where}: a burst is at least 1, not {burst!r}")
        return cls(per_s, burst)


class Principal:
    """An authenticated caller.

    ``endpoints`` is None for "may call any"; ``max_in_flight`` is its own quota, None for none.
    ``is_admin`` tells that it may also say which of these endpoints are served. ``rate`` is how
    often it may ask, ``endpoint_rates`` how often single endpoints; None is for "as often as
    others". ``is_rerated`` tells that these may be others than when it asked last.
    """

    __slots__ = (
        "endpoint_rates",
        "endpoints",
        "in_flight",
        "is_admin",
        "is_rerated",
        "max_in_flight",
        "name",
        "rate",
        "tenant",
    )

    def __init__(
        self,
        name: str,
        tenant: str = DEFAULT_TENANT,
        endpoints: frozenset[str] | None = None,
        max_in_flight: int | None = None,
        *,
        is_admin: bool = False,
        rate: Rate | None = None,
        endpoint_rates: Mapping[str, Rate] | None = None,
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.endpoints = endpoints
        self.max_in_flight = max_in_flight
        self.is_admin = is_admin
        self.rate = rate
        self.endpoint_rates = endpoint_rates
        self.in_flight = 0
        self.is_rerated = True


ANONYMOUS = Principal("anonymous")


class RequestContext(msgspec.Struct, eq=False):
    """Everything about a request that is not its content.

    ``request_id`` is Salver's own; ``caller_id`` is the caller's, echoed unchanged.
    ``arrival_ns`` and ``deadline_ns`` are monotonic. ``headers`` are those that the endpoint's
    routing asks for. ``variant`` is set by the router, and with it ``weight_epoch`` (0 where a rule
    or the caller chose, so that chance did not) and ``place``: where the routing key falls in
    ``[0, 10000)``, -1 without one. ``captured`` asks for the answer in the
    record of the exchange. ``joined`` tells that it shared the end of an equal request, and asked
    for no run of its own. ``memory_ns`` is how long its answer was looked for in memory, and put
    there; -1 where nobody looked. ``worker`` is set by the link that it was sent on last, and
    ``on_cancel`` by whoever holds the work; ``cancel()`` calls it once.
    """

    request_id: str
    principal: Principal
    arrival_ns: int
    deadline_ns: int
    caller_id: str | None = None
    traceparent: str | None = None
    routing_key: str | None = None
    priority: int = 0
    idempotent: bool = True
    variant: str = ""
    version: str = ""
    weight_epoch: int = 0
    headers: Mapping[str, str] | None = None
    place: int = -1
    captured: bool = False
    joined: bool = False
    memory_ns: int = -1
    worker: str = ""
    cancelled: bool = False
    on_cancel: Callable[[], None] | None = None

    @property
    def tenant(self) -> str:
        """The tenant the caller belongs to."""
        return self.principal.tenant

    def cancel(self) -> None:
        """Tell whoever holds the work that nobody waits for it; calling twice is harmless."""
        if self.cancelled:
            return
        self.cancelled = True
        callback, self.on_cancel = self.on_cancel, None
        if callback is not None:
            callback()
