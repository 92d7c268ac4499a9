"""Who asks, until when, and how the asking is tracked."""

from collections.abc import Callable

import msgspec

DEFAULT_TENANT = "default"


class Principal:
    """An authenticated caller.

    ``endpoints`` is None for "may call any"; ``max_in_flight`` is its own quota, None for none.
    ``is_admin`` tells that it may also say which of these endpoints are served.
    """

    __slots__ = ("endpoints", "in_flight", "is_admin", "max_in_flight", "name", "tenant")

    def __init__(
        self,
        name: str,
        tenant: str = DEFAULT_TENANT,
        endpoints: frozenset[str] | None = None,
        max_in_flight: int | None = None,
        *,
        is_admin: bool = False,
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.endpoints = endpoints
        self.max_in_flight = max_in_flight
        self.is_admin = is_admin
        self.in_flight = 0


ANONYMOUS = Principal("anonymous")


class RequestContext(msgspec.Struct, eq=False):
    """Everything about a request that is not its content.

    ``request_id`` is Salver's own; ``caller_id`` is the caller's, echoed unchanged.
    ``arrival_ns`` and ``deadline_ns`` are monotonic. ``variant`` is set by the router and
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
