"""Asks many models at a rate, and prints when each request was sent and how it ended, as JSON.

Runs in Salver's environment: `python -m bench.many_loop PLAN`. The plan holds port, headers, and
for each model its path, its body and a share; arrivals are Poisson, and which model is asked is
drawn by these shares. The same seed gives the same load.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from salver.bench.figures import Arrivals
from salver.bench.generator import OpenLoop, Run
from salver.bench.pool import Pool, allow_files
from salver.bench.record import integers
from salver.bench.schedule import arrival_times
from salver.bench.target import Target
from salver.core.clock import SystemClock

OPENED = 4
DECK = 10_000
"""How finely shares are cut: the load generator draws from a deck in which all are alike."""


def deck(shares: list[float]) -> list[int]:
    """Return numbers of models, each as often as its share says and once at least."""
    whole = sum(shares)
    return [
        number
        for number, share in enumerate(shares)
        for _ in range(max(1, round(DECK * share / whole)))
    ]


def drawn(cards: list[int], count: int, seed: int) -> list[int]:
    """Return which model each request asks, as the load generator draws it."""
    order = np.random.default_rng(seed).integers(0, len(cards), count)
    return [cards[int(index)] for index in order]


def requests_of(plan: dict[str, Any]) -> list[bytes]:
    """Return a whole HTTP/1.1 request for each model."""
    heads = "".join(f"{name}: {value}\r\n" for name, value in plan["headers"].items())
    found = []
    for model in plan["models"]:
        body = model["body"].encode()
        start = f"POST {model['path']} HTTP/1.1\r\nHost: 127.0.0.1:{plan['port']}\r\n{heads}"
        found.append(f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return found


async def offer(plan: dict[str, Any], cards: list[int]) -> Run:
    """Offer the load; ends with the last answer or the last caller's patience."""
    clock = SystemClock()
    allow_files(plan["connections"])
    target = Target("127.0.0.1", "127.0.0.1", plan["port"])
    pool = Pool(target, plan["connections"], plan["patience_s"], clock)
    await pool.open(OPENED)
    try:
        times = arrival_times(Arrivals.POISSON, plan["rate_per_s"], plan["seconds"], plan["seed"])
        texts = requests_of(plan)
        requests = [texts[number] for number in cards]
        return await OpenLoop(pool, clock).run(times, requests, 0, plan["seed"])
    finally:
        await pool.close()


def figures(run: Run, plan: dict[str, Any], cards: list[int]) -> dict[str, Any]:
    """Return for each request the model, when it was due and done, and how it ended."""
    record = run.record
    due, done = integers(record.due_ns), integers(record.done_ns)
    sent = integers(record.sent_ns)
    to_unix_ns = time.time_ns() - time.monotonic_ns()
    return {
        "models": drawn(cards, run.count, plan["seed"]),
        "due_s": ((due + to_unix_ns) / 1e9).tolist(),
        "latency_ms": ((done - due) / 1e6).tolist(),
        "lag_ms": ((sent - due) / 1e6).tolist(),
        "outcomes": [record.names[int(number)] for number in integers(record.outcomes)],
    }


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    hand = deck([model["share"] for model in asked["models"]])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(figures(runner.run(offer(asked, hand)), asked, hand)))
