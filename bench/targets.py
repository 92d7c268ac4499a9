"""What Salver is held to, and whether this run reached it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.report_hosting import goodput_ratio, memory_ratio, shadow_ratio
from bench.report_real import recovered_after_s
from bench.results import (
    GRPC_VARIANTS,
    HIGH_LOAD,
    Results,
    grpc_p99_ratio,
    grpc_ratio,
    image_ratio,
    json_large_ratio,
    p50_ratio,
    text_ratio,
    throughput_ratio,
    transfer_ratio,
)

OF_CEILING = 0.7
OF_TRITON = 2.5
P50_OF_CEILING = 1.6
FIRST_ANSWER_S = 1.5
MEMORY_MB = 350.0
ROLLBACK_S = 1.0
COLD_S = {"own process, warm": 0.15, "own process, started anew": 1.0}
RECOVERY_S = 2.0
GRPC_OF_CEILING = 0.6
GRPC_OF_TRITON = 2.5
GRPC_P99_OF_TRITON = 1.0
TRANSFER_OF_TRITON = 1.0
JSON_LARGE_OF_TRITON = 1.5
TRANSFER_CONNECTIONS = (1, 4)
TEXT_OF_TRITON_DYNAMIC = 2.0
TEXT_OF_TRITON = 1.1
TEXT_OF_OTHERS = 2.0
TEXT_OF_OFFLINE = 0.9
IMAGE_OF_BARE = 0.95
OVERLOADS = (2.0, 10.0)
GOODPUT_OF_PEAK = 0.9
REFUSAL_MS = 10.0
FLAT = 1.1
BACK_S = 5.0
NEVER_S = 99.0
OVER_BUDGET = 1.1
BESIDE_SHADOW = 1.05
GOODPUT_BESIDE_SHADOW = 0.95
ROUTING_US = 2.0
ROUTED = ("alone, drawn", "alone, key in a header", "16 together, drawn")


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
    found = _tabular(results, "salver", "Salver")
    starts = results.startup.get("salver", [])
    seconds = statistics.median([s.first_answer_s for s in starts]) if starts else None
    back = [s.recovery_s for s in starts if s.recovery_s is not None]
    recovery = statistics.median(back) if back else None
    memory = statistics.median([s.pss_mb for s in starts]) if starts else None
    found.append(_at_most("Salver, first answer after (s)", seconds, FIRST_ANSWER_S))
    found.append(_at_most("Salver, back after its only worker died (s)", recovery, RECOVERY_S))
    found.append(_at_most("Salver, memory of all processes (MB, PSS)", memory, MEMORY_MB))
    return (
        found
        + _grpc(results, "salver", "Salver")
        + _compiled(results)
        + _large(results)
        + _text(results)
        + _images(results)
        + _cold(results)
        + _hosting(results)
        + _routing(results)
    )


def _compiled(results: Results) -> list[Verdict]:
    """What the compiled wheel is held to, which is the same; nothing where it was not measured."""
    name, title = "salver-compiled", "Salver, compiled"
    every = _tabular(results, name, title) + _grpc(results, name, title)
    return [verdict for verdict in every if verdict.value is not None]


def _tabular(results: Results, ours: str, title: str) -> list[Verdict]:
    """One row per request over HTTP."""
    found = []
    for other, name, bound in (("ceiling", "ceiling", OF_CEILING), ("triton", "Triton", OF_TRITON)):
        for count in HIGH_LOAD:
            ratio = throughput_ratio(results, ours, other, count)
            found.append(_at_least(f"{title} / {name}, requests/s at c={count}", ratio, bound))
    ratio = p50_ratio(results, ours, "ceiling", 1)
    return [*found, _at_most(f"{title} / ceiling, p50 at c=1", ratio, P50_OF_CEILING)]


def _hosting(results: Results) -> list[Verdict]:
    """Many models in little memory, and a version that gets copies."""
    many, shadow = results.many, results.shadow
    failed = None if many is None else float(sum(one.failed for one in many.rounds))
    most = None if many is None else memory_ratio(many)
    slower = None if shadow is None else shadow_ratio(shadow, "p99_ms")
    good = None if shadow is None else goodput_ratio(shadow)
    return [
        _at_most("Salver, failures with 100 models in the memory of 20", failed, 0.0),
        _at_most("Salver, the most memory with 100 models / the budget", most, OVER_BUDGET),
        _at_most("Salver, p99 at half of the capacity beside a shadow", slower, BESIDE_SHADOW),
        _at_least("Salver, answers/s over capacity beside a shadow", good, GOODPUT_BESIDE_SHADOW),
    ]


def _routing(results: Results) -> list[Verdict]:
    """What it costs a request that an endpoint has a canary."""
    found = []
    for way in ROUTED:
        added = results.routing.get(way)
        median_us = statistics.median(added) if added else None
        what = f"Salver, what a canary adds to a request, {way} (us)"
        found.append(_at_most(what, median_us, ROUTING_US))
    return found


def _cold(results: Results) -> list[Verdict]:
    """From no replica to the first answer, with a warm process and without, and back again."""
    found = []
    for way, bound_s in COLD_S.items():
        starts = results.cold.get(way)
        median_s = statistics.median(starts) if starts else None
        found.append(
            _at_most(f"Salver, first answer of a cold model, {way} (s)", median_s, bound_s)
        )
    last_s = max((one.last_answer_s for one in results.rollback), default=None)
    what = "Salver, last answer of a version after a rollback (s), the slowest"
    return [*found, _at_most(what, last_s, ROLLBACK_S)]


def _grpc(results: Results, ours: str, title: str) -> list[Verdict]:
    """One row per call over gRPC."""
    found = []
    for variant in GRPC_VARIANTS:
        what = f"calls/s over gRPC, {variant} metadata"
        ratio = grpc_ratio(results, ours, "ceiling", variant)
        found.append(_at_least(f"{title} / ceiling, {what}", ratio, GRPC_OF_CEILING))
        ratio = grpc_ratio(results, ours, "triton", variant)
        found.append(_at_least(f"{title} / Triton, {what}", ratio, GRPC_OF_TRITON))
        ratio = grpc_p99_ratio(results, ours, "triton", variant)
        what = f"{title} / Triton, p99 over gRPC, {variant} metadata"
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


def _text(results: Results) -> list[Verdict]:
    """Texts; of each server the best of its ways in this run."""
    ours = _best(results, "salver")
    triton = _best(results, "triton")
    wanted = [
        ("Triton's dynamic batching", "triton-dynamic", TEXT_OF_TRITON_DYNAMIC),
        ("the best of Triton", triton, TEXT_OF_TRITON),
        ("MLServer's batching", "mlserver", TEXT_OF_OTHERS),
        ("LitServe's batching", "litserve", TEXT_OF_OTHERS),
        ("ONNX Runtime offline, sorted", "offline sorted", TEXT_OF_OFFLINE),
    ]
    return [
        _at_least(f"Salver / {what}, texts/s", text_ratio(results, ours, other), bound)
        for what, other, bound in wanted
    ]


def _best(results: Results, prefix: str) -> str:
    names = [name for name in results.text if name.startswith(prefix)]
    return max(
        names,
        key=lambda name: statistics.median([f.answers_per_s for f in results.text[name]]),
        default=prefix,
    )


def _images(results: Results) -> list[Verdict]:
    """Images, and more of them than can be answered."""
    ratio = image_ratio(results, "salver", "onnxruntime")
    found = [_at_least("Salver / bare ONNX Runtime, images/s", ratio, IMAGE_OF_BARE)]
    one = results.overload.get("salver")
    if one is None:
        return found
    peak = max(step.offered.in_time_per_s for step in one.steps)
    usual_mb = next(step.pss_mb for step in one.steps if step.times == 1.0)
    for step in one.steps:
        if step.times not in OVERLOADS:
            continue
        offered, what = step.offered, f"at {step.times:g} × capacity"
        share = offered.in_time_per_s / peak if peak else 0.0
        found.append(_at_least(f"Salver, goodput {what} / its peak", share, GOODPUT_OF_PEAK))
        longest = (offered.accepted_p99_ms or 0.0) / one.bound_ms
        found.append(_at_most(f"Salver, accepted p99 {what} / its bound", longest, 1.0))
        refusal = offered.refusal_p99_ms
        found.append(_at_most(f"Salver, refusal p99 {what} (ms)", refusal, REFUSAL_MS))
        grown = step.pss_mb / usual_mb
        found.append(_at_most(f"Salver, memory {what} / at capacity", grown, FLAT))
    after = recovered_after_s(one)
    what = "Salver, full goodput after the load has fallen (s)"
    seconds = NEVER_S if after is None else float(after)
    return [*found, _at_most(what, seconds, BACK_S)]


def _at_least(what: str, value: float | None, bound: float) -> Verdict:
    return Verdict(what, value, f"≥ {bound:g}", None if value is None else value >= bound)


def _at_most(what: str, value: float | None, bound: float) -> Verdict:
    return Verdict(what, value, f"≤ {bound:g}", None if value is None else value <= bound)
