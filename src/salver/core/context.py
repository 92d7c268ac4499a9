"""Who asks, until when, and how the asking is tracked."""

from collections.abc import Callable

DEFAULT_TENANT = "default"


class Principal:
    """An authenticated caller.

    ``endpoints`` is None for "may call any"; ``max_in_flight`` is its own quota, None for none.
    """

    __slots__ = ("endpoints", "in_flight", "max_in_flight", "name", "tenant")

    def __init__(
        self,
        name: str,
        tenant: str = DEFAULT_TENANT,
        endpoints: frozenset[str] | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.endpoints = endpoints
        self.max_in_flight = max_in_flight
        self.in_flight = 0


ANONYMOUS = Principal("anonymous")


class RequestContext:
    """Everything about a request that is not its content.

    ``request_id`` is Salver's own; ``caller_id`` is the caller's, echoed unchanged.
    ``arrival_ns`` and ``deadline_ns`` are monotonic. ``variant`` is set by the router and
    ``on_cancel`` by whoever holds the work; ``cancel()`` calls it once.
    """

    __slots__ = (
        "arrival_ns",
        "caller_id",
        "cancelled",
        "deadline_ns",
        "idempotent",
        "on_cancel",
        "principal",
        "priority",
        "request_id",
        "routing_key",
        "traceparent",
        "variant",
        "version",
        "weight_epoch",
    )

    def __init__(
        self,
        request_id: str,
        principal: Principal,
        arrival_ns: int,
        deadline_ns: int,
        caller_id: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.request_id = request_id
        self.principal = principal
        self.arrival_ns = arrival_ns
        self.deadline_ns = deadline_ns
        self.caller_id = caller_id
        self.traceparent = traceparent
        self.routing_key: str | None = None
        self.priority = 0
        self.idempotent = True
        self.variant = ""
        self.version = ""
        self.weight_epoch = 0
        self.cancelled = False
        self.on_cancel: Callable[[], None] | None = None

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
