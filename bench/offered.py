"""An offered load: what is sent to one server at a rate, and what became of it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from bench.modules import run_module
from bench.wire_http import Connection, Target

CONNECTIONS = 2048
PATIENCE_S = 5.0
FAILED = "the load generator failed"
"""After which a caller gives up and closes its connection."""
SETTLE_S = 20.0
ANSWER_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way in which one server answers the same question: where, and with which bodies.

    `headers` go with every body, beside those of the target. `bodies` is a file with one body, or
    with one on each line.
    """

    name: str
    target: Target
    headers: dict[str, str]
    bodies: Path
    one_a_line: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A rate, for how long, and what counts as in time."""

    rate_per_s: float
    seconds: float
    within_ms: float
    warm_up_s: float = 1.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of the requests that were due after the warm-up.

    `in_time_per_s` counts right answers within the objective that came while the load lasted.
    Quantiles are milliseconds from when a request was due, over all of them (None: never
    answered), `accepted_p99_ms` over those with an answer; refusals count from when they were sent.
    """

    rate_per_s: float
    due: int
    answered: int
    in_time: int
    in_time_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    accepted_p99_ms: float | None
    refused: int
    refusal_p50_ms: float | None
    refusal_p99_ms: float | None
    unsent: int
    lag_p99_ms: float | None
    generator_cores: float
    outcomes: dict[str, int] = field(default_factory=dict)
    due_by_second: list[int] = field(default_factory=list)
    in_time_by_second: list[int] = field(default_factory=list)


def settle(contestant: Contestant) -> None:
    """Wait until a server has worked off what was offered to it, or `SETTLE_S` have passed."""
    content = contestant.bodies.read_bytes()
    body = content.splitlines()[0] if contestant.one_a_line else content
    with contextlib.suppress(OSError, ValueError):
        connection = Connection(contestant.target, SETTLE_S, ANSWER_LIMIT_BYTES)
        try:
            connection.post(body, contestant.headers)
        finally:
            connection.close()


def offer(contestant: Contestant, plan: Plan, folder: Path) -> Offered:
    """Run the load generator once. Raises `BenchError` with its output where it fails."""
    target = contestant.target
    asked = {
        "port": target.port,
        "path": target.path,
        "headers": {**target.headers, **contestant.headers},
        "bodies": str(contestant.bodies),
        "one_a_line": contestant.one_a_line,
        "rate_per_s": plan.rate_per_s,
        "seconds": plan.seconds,
        "warm_up_s": plan.warm_up_s,
        "within_ms": plan.within_ms,
        "seed": plan.seed,
        "connections": CONNECTIONS,
        "patience_s": PATIENCE_S,
    }
    file = folder / "plan.json"
    file.write_text(json.dumps(asked))
    timeout_s = plan.warm_up_s + plan.seconds + PATIENCE_S + 60
    found = run_module("bench.open_loop", file, timeout_s=timeout_s, failed=FAILED)
    return Offered(rate_per_s=plan.rate_per_s, **found)
