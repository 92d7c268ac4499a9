"""Offers requests at a rate, whatever becomes of them, and prints what happened as JSON.

Runs in Salver's environment, whose load generator this is: `python -m bench.open_loop PLAN`, with
PLAN as `bench.offered.Plan` writes it. Arrivals are Poisson, the same for the same seed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from salver.bench.figures import Arrivals
from salver.bench.generator import OpenLoop, Run
from salver.bench.pool import Pool, allow_files
from salver.bench.record import NO_CONNECTION, OK, OTHER, integers
from salver.bench.schedule import arrival_times
from salver.bench.target import Target
from salver.core.clock import SystemClock

OPENED = 4
NS_PER_S = 1_000_000_000


def requests_of(plan: dict[str, Any]) -> list[bytes]:
    """Return whole HTTP/1.1 requests."""
    content = Path(plan["bodies"]).read_bytes()
    bodies = content.splitlines() if plan["one_a_line"] else [content]
    heads = "".join(f"{name}: {value}\r\n" for name, value in plan["headers"].items())
    start = f"POST {plan['path']} HTTP/1.1\r\nHost: 127.0.0.1:{plan['port']}\r\n{heads}"
    return [f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


async def offer(plan: dict[str, Any]) -> Run:
    """Offer the load; ends with the last answer or the last caller's patience."""
    clock = SystemClock()
    allow_files(plan["connections"])
    target = Target("127.0.0.1", "127.0.0.1", plan["port"])
    pool = Pool(target, plan["connections"], plan["patience_s"], clock)
    await pool.open(OPENED)
    try:
        span_s = plan["warm_up_s"] + plan["seconds"]
        times = arrival_times(Arrivals.POISSON, plan["rate_per_s"], span_s, plan["seed"])
        first = int(np.searchsorted(times, plan["warm_up_s"] * NS_PER_S))
        return await OpenLoop(pool, clock).run(times, requests_of(plan), first, plan["seed"])
    finally:
        await pool.close()


def figures(run: Run, plan: dict[str, Any]) -> dict[str, Any]:
    """Return what happened to the requests that were due after the warm-up."""
    record = run.record
    due, done, sent = (integers(v) for v in (record.due_ns, record.done_ns, record.sent_ns))
    outcomes = integers(record.outcomes)
    late_ns = round(plan["within_ms"] * 1e6)
    begin_ns = int(due[run.first])
    end_ns = begin_ns + round(plan["seconds"] * NS_PER_S)
    right = outcomes == OK
    in_time = right & (done - due <= late_ns)
    in_window = in_time & (done >= begin_ns) & (done < end_ns)
    after = slice(run.first, run.count)
    latency_ms = np.where(right, (done - due) / 1e6, np.inf)[after]
    refused = (outcomes >= OTHER)[after]
    refusal_ms = ((done - sent) / 1e6)[after][refused]
    lag_ms = ((sent - due) / 1e6)[after][sent[after] > 0]
    names = {
        record.names[int(number)]: int(count)
        for number, count in zip(*np.unique(outcomes[after], return_counts=True), strict=True)
    }
    second = ((due - begin_ns) // NS_PER_S)[after]
    seconds = int(np.ceil(plan["seconds"]))
    return {
        "due": int(run.count - run.first),
        "answered": int(right[after].sum()),
        "in_time": int(in_time[after].sum()),
        "in_time_per_s": float(in_window.sum() / plan["seconds"]),
        "p50_ms": quantile(latency_ms, 0.5),
        "p99_ms": quantile(latency_ms, 0.99),
        "accepted_p99_ms": quantile(latency_ms[np.isfinite(latency_ms)], 0.99),
        "refused": int(refused.sum()),
        "refusal_p50_ms": quantile(refusal_ms, 0.5),
        "refusal_p99_ms": quantile(refusal_ms, 0.99),
        "unsent": int((outcomes == NO_CONNECTION)[after].sum()),
        "lag_p99_ms": quantile(lag_ms, 0.99),
        "generator_cores": run.cpu_ns / max(1, run.wall_ns),
        "outcomes": names,
        "due_by_second": np.bincount(second, minlength=seconds).tolist(),
        "in_time_by_second": np.bincount(second[in_time[after]], minlength=seconds).tolist(),
    }


def quantile(values: np.ndarray[Any, Any], share: float) -> float | None:
    """Return a quantile by nearest rank; None of nothing, or where it was never answered."""
    if not len(values):
        return None
    found = float(np.sort(values)[min(len(values) - 1, int(np.ceil(share * len(values))) - 1)])
    return found if np.isfinite(found) else None


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(figures(runner.run(offer(asked)), asked)))
