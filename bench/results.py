"""The figures of one run, as plain data."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from bench.load import Sample
from bench.machine import Machine
from bench.offered import Offered

COUNTS_AT = 3.0
"""A run counts only if the ceiling reaches this many times Triton in it."""
HIGH_LOAD = (16, 64)
GRPC_VARIANTS = ("constant", "changing")
"""Metadata that is the same in every call, and `grpc-timeout` and `traceparent` that never are."""
JSON_LARGE_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Transfer:
    """Large tensors there and back: `gb_per_s` counts the payload of both directions."""

    connections: int
    requests_per_s: float
    gb_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class StartUp:
    """One start: seconds to the first answer, then the memory of all processes in MB (10^6).

    ``recovery_s`` is the time from the death of the only worker to the next answer.
    """

    first_answer_s: float
    pss_mb: float
    rss_mb: float
    processes: int
    recovery_s: float | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most texts/s that were answered while one in a hundred at most took over a second.

    `rate_per_s` was offered then; `p50_ms` and `p99_ms` count from when a text was due. What
    ONNX Runtime gives offline has no latencies.
    """

    answers_per_s: float
    rate_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class OverloadStep:
    """A rate as a multiple of the capacity, what became of it, and the server's memory after it."""

    times: float
    offered: Offered
    pss_mb: float


@dataclass(frozen=True, slots=True)
class Overload:
    """One server under more than it can do; `bound_ms` is what an accepted request may take.

    `steps` are in the order of `times`; `after` is the load that follows ten times the capacity at
    once.
    """

    capacity_per_s: float
    unloaded_p99_ms: float
    bound_ms: float
    steps: list[OverloadStep]
    after: OverloadStep


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from when requests were due to their answers; None without any request."""

    count: int
    p50_ms: float | None
    p99_ms: float | None
    longest_ms: float | None


@dataclass(frozen=True, slots=True)
class ManyRound:
    """A load on models that stay in memory, then as much on all models, most of which do not fit.

    `calm` is of the first load, `loading` of requests in the second for the same models, while
    these were in memory and others were being loaded. `waited` is of requests for models that were
    out.
    """

    asked: int
    failed: int
    hits: int
    calm: Latency
    loading: Latency
    waited: Latency
    outcomes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Many:
    """Many models in one worker that has room for a few; bytes are of that worker's process."""

    models: int
    budget_for: int
    budget_bytes: int
    mean_size_bytes: int
    rate_per_s: float
    rounds: list[ManyRound]
    loads_s: list[float]
    most_rss_bytes: int
    most_pss_bytes: int
    looks: int
    load_1m: float


@dataclass(frozen=True, slots=True)
class ShadowRound:
    """The same load without and with a shadow that gets copies of all; what became of these."""

    without: Offered
    beside: Offered
    copies: dict[str, int]

    @property
    def dropped_share(self) -> float | None:
        """Which part of the copies was never sent."""
        count = sum(self.copies.values())
        return self.copies["dropped"] / count if count else None


@dataclass(frozen=True, slots=True)
class Shadow:
    """An endpoint at half of its capacity, in rounds, and over its capacity, once."""

    capacity_per_s: float
    half: list[ShadowRound]
    over: ShadowRound
    load_1m: float


@dataclass(frozen=True, slots=True)
class Rollback:
    """Seconds from the command to the last answer of the version it leaves, and to its end."""

    last_answer_s: float
    command_s: float


@dataclass(slots=True)
class Results:
    """Samples by server, then by connections or variant; position in each list is the round."""

    machine: Machine
    started: str
    rounds: int
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    tabular: dict[str, dict[int, list[Sample]]] = field(default_factory=dict)
    grpc: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    binary: dict[str, dict[int, list[Transfer]]] = field(default_factory=dict)
    grpc_binary: dict[str, dict[int, list[Transfer]]] = field(default_factory=dict)
    json_large: dict[str, list[Sample]] = field(default_factory=dict)
    startup: dict[str, list[StartUp]] = field(default_factory=dict)
    cold: dict[str, list[float]] = field(default_factory=dict)
    rollback: list[Rollback] = field(default_factory=list)
    text: dict[str, list[Capacity]] = field(default_factory=dict)
    image: dict[str, list[float]] = field(default_factory=dict)
    overload: dict[str, Overload] = field(default_factory=dict)
    many: Many | None = None
    shadow: Shadow | None = None
    routing: dict[str, list[float]] = field(default_factory=dict)


def throughput_ratio(results: Results, upper: str, lower: str, connections: int) -> float | None:
    """Median over the rounds of requests/s of `upper` by `lower`, paired within each round."""
    return _paired(
        [sample.requests_per_s for sample in _samples(results, upper, connections)],
        [sample.requests_per_s for sample in _samples(results, lower, connections)],
    )


def p50_ratio(results: Results, upper: str, lower: str, connections: int) -> float | None:
    """The same for the median latency."""
    return _paired(
        [sample.p50_us for sample in _samples(results, upper, connections)],
        [sample.p50_us for sample in _samples(results, lower, connections)],
    )


def grpc_ratio(results: Results, upper: str, lower: str, variant: str) -> float | None:
    """Calls/s of `upper` by `lower`."""
    one, other = (results.grpc.get(name, {}).get(variant, []) for name in (upper, lower))
    return _paired([s.requests_per_s for s in one], [s.requests_per_s for s in other])


def grpc_p99_ratio(results: Results, upper: str, lower: str, variant: str) -> float | None:
    """The same for the latency that one call in a hundred is over."""
    one, other = (results.grpc.get(name, {}).get(variant, []) for name in (upper, lower))
    return _paired([s.p99_us for s in one], [s.p99_us for s in other])


def transfer_ratio(
    figures: dict[str, dict[int, list[Transfer]]], upper: str, lower: str, connections: int
) -> float | None:
    """GB/s of `upper` by `lower`, over HTTP or gRPC."""
    one, other = (figures.get(name, {}).get(connections, []) for name in (upper, lower))
    return _paired([f.gb_per_s for f in one], [f.gb_per_s for f in other])


def json_large_ratio(results: Results, upper: str, lower: str) -> float | None:
    """Requests/s of `upper` by `lower` with large JSON."""
    one, other = (results.json_large.get(name, []) for name in (upper, lower))
    return _paired([s.requests_per_s for s in one], [s.requests_per_s for s in other])


def text_ratio(results: Results, upper: str, lower: str) -> float | None:
    """Texts/s of `upper` by `lower`."""
    one, other = (results.text.get(name, []) for name in (upper, lower))
    return _paired([f.answers_per_s for f in one], [f.answers_per_s for f in other])


def image_ratio(results: Results, upper: str, lower: str) -> float | None:
    """Images/s of `upper` by `lower`."""
    return _paired(results.image.get(upper, []), results.image.get(lower, []))


def _samples(results: Results, server: str, connections: int) -> list[Sample]:
    return results.tabular.get(server, {}).get(connections, [])


def _paired(upper: list[float], lower: list[float]) -> float | None:
    pairs = [a / b for a, b in zip(upper, lower, strict=False) if b]
    return statistics.median(pairs) if pairs else None


def run_counts(results: Results) -> bool | None:
    """Whether the ceiling reached `COUNTS_AT` × Triton at high load; None if not measured."""
    ratios = [throughput_ratio(results, "ceiling", "triton", count) for count in HIGH_LOAD]
    known = [ratio for ratio in ratios if ratio is not None]
    return all(ratio >= COUNTS_AT for ratio in known) if known else None
