"""The document that a run of `salver bench` ends with, as programs read it.

Latencies are microseconds from when a request was *due* to the last byte of its answer, so a
server that stalls is charged for every request that fell into the stall.
"""

from enum import StrEnum
from typing import Any

import msgspec

SCHEMA = 1


class Arrivals(StrEnum):
    """How requests follow each other."""

    CONSTANT = "constant"
    POISSON = "poisson"


class Format(StrEnum):
    """How requests are written: over REST as JSON or with raw tensors, or over gRPC."""

    JSON = "json"
    BINARY = "binary"
    GRPC = "grpc"


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exact percentiles by nearest rank, in microseconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests: ``due`` = ``sent`` + ``not_sent``; ``good`` are right and within the objective."""

    due: int
    sent: int
    not_sent: int
    ok: int
    good: int
    failed: int


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests a second: asked for, due, sent, answered right, and good."""

    target: float
    offered: float
    sent: float
    ok: float
    good: float


class Own(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the generator itself cost.

    ``lag_us``: how late requests were sent. ``cpu_share``: of one core. ``bottleneck`` says that
    the figures tell of the generator and not of the server, ``reason`` why.
    """

    lag_us: Latency | None
    cpu_share: float
    bottleneck: bool
    reason: str


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rate, held for some time.

    ``latency_us`` counts from when requests were due, ``service_us`` from when they were sent,
    ``refusal_us`` is of refusals, from when they were due. ``objective_share`` is
    good / due. ``curve`` holds pairs of percentile and latency.
    """

    rates: Rates
    duration_s: float
    requests: Counts
    errors: dict[str, int]
    latency_us: Latency | None
    service_us: Latency | None
    refusal_us: Latency | None
    objective_share: float
    met: bool
    unmet: list[str]
    generator: Own
    bytes_sent: int
    bytes_received: int
    curve: list[tuple[float, float]]


class Limit(StrEnum):
    """What ended the search for the capacity."""

    SERVER = "server"
    GENERATOR = "generator"
    MAX_RATE = "max_rate"
    STEPS = "steps"
    INTERRUPTED = "interrupted"


class Capacity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The highest rate that met the objective; a lower bound unless the server was the limit."""

    rate_per_s: float
    first_unmet_per_s: float | None
    limit: Limit


class Cycle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cold start, in milliseconds from the deploy call."""

    accepted_ms: float
    answered_ms: float
    polls: int


class Cold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cold starts: the first one also loads what later ones find in memory."""

    version: str
    cycles: list[Cycle]
    median_ms: float
    max_ms: float


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was asked for; ``streams`` is how many requests a connection carries at once."""

    arrivals: str
    seed: int
    slo_ms: float
    quantile: float
    goodput: float
    warmup_s: float
    connections: int
    timeout_s: float
    pacing: str
    streams: int = 1


class Requests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was sent: where it came from, how it was written, how many different ones."""

    source: str
    format: str
    distinct: int
    mean_bytes: float


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that one run of the command found."""

    kind: str
    endpoint: str
    url: str
    requests: Requests
    settings: Settings
    steps: list[Step] = []
    capacity: Capacity | None = None
    cold: Cold | None = None
    interrupted: bool = False
    schema: int = SCHEMA

    @property
    def met(self) -> bool:
        """Whether the objective was met, by every step or by some rate of a ramp."""
        if self.capacity is not None:
            return self.capacity.rate_per_s > 0
        return bool(self.steps) and all(step.met for step in self.steps)


def document(report: Report) -> dict[str, Any]:
    """Return a report as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return plain
