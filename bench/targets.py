"""What Salver is held to, and whether this run reached it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.results import (
    GRPC_VARIANTS,
    HIGH_LOAD,
    Results,
    grpc_p99_ratio,
    grpc_ratio,
    json_large_ratio,
    p50_ratio,
    throughput_ratio,
    transfer_ratio,
)

OF_CEILING = 0.7
OF_TRITON = 2.5
P50_OF_CEILING = 1.6
FIRST_ANSWER_S = 1.5
MEMORY_MB = 350.0
COLD_S = {"own process, warm": 0.15, "own process, started anew": 1.0}
RECOVERY_S = 2.0
GRPC_OF_CEILING = 0.6
GRPC_OF_TRITON = 2.5
GRPC_P99_OF_TRITON = 1.0
TRANSFER_OF_TRITON = 1.0
JSON_LARGE_OF_TRITON = 1.5
TRANSFER_CONNECTIONS = (1, 4)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: `value` is None where the run did not measure it."""

    what: str
    value: float | None
    wanted: str
    met: bool | None

    @property
    def word(self) -> str:
        """met, not met, or not measured."""
        if self.met is None:
            return "not measured"
        return "met" if self.met else "NOT MET"


def verdicts(results: Results) -> list[Verdict]:
    """Every target in the order of the report."""
    found = []
    for count in HIGH_LOAD:
        ratio = throughput_ratio(results, "salver", "ceiling", count)
        found.append(_at_least(f"Salver / ceiling, requests/s at c={count}", ratio, OF_CEILING))
    for count in HIGH_LOAD:
        ratio = throughput_ratio(results, "salver", "triton", count)
        found.append(_at_least(f"Salver / Triton, requests/s at c={count}", ratio, OF_TRITON))
    ratio = p50_ratio(results, "salver", "ceiling", 1)
    found.append(_at_most("Salver / ceiling, p50 at c=1", ratio, P50_OF_CEILING))
    starts = results.startup.get("salver", [])
    seconds = statistics.median([s.first_answer_s for s in starts]) if starts else None
    back = [s.recovery_s for s in starts if s.recovery_s is not None]
    recovery = statistics.median(back) if back else None
    memory = statistics.median([s.pss_mb for s in starts]) if starts else None
    found.append(_at_most("Salver, first answer after (s)", seconds, FIRST_ANSWER_S))
    found.append(_at_most("Salver, back after its only worker died (s)", recovery, RECOVERY_S))
    found.append(_at_most("Salver, memory of all processes (MB, PSS)", memory, MEMORY_MB))
    return found + _grpc(results) + _large(results) + _cold(results)


def _cold(results: Results) -> list[Verdict]:
    """From no replica to the first answer, with a warm process and without."""
    found = []
    for way, bound_s in COLD_S.items():
        starts = results.cold.get(way)
        median_s = statistics.median(starts) if starts else None
        found.append(
            _at_most(f"Salver, first answer of a cold model, {way} (s)", median_s, bound_s)
        )
    return found


def _grpc(results: Results) -> list[Verdict]:
    """One row per call over gRPC."""
    found = []
    for variant in GRPC_VARIANTS:
        what = f"calls/s over gRPC, {variant} metadata"
        ratio = grpc_ratio(results, "salver", "ceiling", variant)
        found.append(_at_least(f"Salver / ceiling, {what}", ratio, GRPC_OF_CEILING))
        ratio = grpc_ratio(results, "salver", "triton", variant)
        found.append(_at_least(f"Salver / Triton, {what}", ratio, GRPC_OF_TRITON))
        ratio = grpc_p99_ratio(results, "salver", "triton", variant)
        what = f"Salver / Triton, p99 over gRPC, {variant} metadata"
        found.append(_at_most(what, ratio, GRPC_P99_OF_TRITON))
    return found


def _large(results: Results) -> list[Verdict]:
    """Large tensors and large JSON."""
    found = []
    for door, figures in (("HTTP", results.binary), ("gRPC", results.grpc_binary)):
        for count in TRANSFER_CONNECTIONS:
            ratio = transfer_ratio(figures, "salver", "triton", count)
            what = f"Salver / Triton, GB/s of large tensors over {door} at c={count}"
            found.append(_at_least(what, ratio, TRANSFER_OF_TRITON))
    ratio = json_large_ratio(results, "salver", "triton")
    what = "Salver / Triton, requests/s with 150,528 numbers as JSON"
    found.append(_at_least(what, ratio, JSON_LARGE_OF_TRITON))
    return found


def _at_least(what: str, value: float | None, bound: float) -> Verdict:
    return Verdict(what, value, f"≥ {bound:g}", None if value is None else value >= bound)


def _at_most(what: str, value: float | None, bound: float) -> Verdict:
    return Verdict(what, value, f"≤ {bound:g}", None if value is None else value <= bound)
