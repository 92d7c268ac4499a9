"""A hundred models in the memory of twenty, asked as popular and rare ones are: by Zipf's law.

Each round offers the same rate twice: to the most popular models alone, which then stay in memory,
and to all. Which models were in memory when, and how long loads took, is in the worker's log.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.modules import run_module
from bench.offered import FAILED
from bench.options import Options
from bench.results import Latency, Many, ManyRound, Results
from bench.servers.base import JSON
from bench.servers.many import Change, ManySalver, body_of
from bench.workspace import Workspace

BUDGET_FOR = 20
POPULAR = 10
EXPONENT = 1.0
RATE_PER_S = 30.0
ALL_TO_POPULAR = 3.0
"""How much longer all models are asked than the popular ones alone."""
CONNECTIONS = 512
PATIENCE_S = 30.0
LOOK_EVERY_S = 0.02
PSS_EVERY = 25
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: of which model, when it was due (seconds since 1970), and how it ended."""

    model: str
    due_s: float
    latency_ms: float
    outcome: str

    @property
    def done_s(self) -> float:
        """When its answer had come."""
        return self.due_s + self.latency_ms / 1e3


@dataclass(slots=True)
class Memory:
    """What the worker's processes were seen to occupy, at the most."""

    rss_bytes: int = 0
    pss_bytes: int = 0
    looks: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def watch(self, pids: Callable[[], list[int]]) -> None:
        """Look until told to stop; PSS less often, as it stops the process for a moment."""
        while not self.stopping.wait(LOOK_EVERY_S):
            for pid in pids():
                self.rss_bytes = max(self.rss_bytes, rss_bytes(pid))
                if self.looks % PSS_EVERY == 0:
                    self.pss_bytes = max(self.pss_bytes, pss_bytes(pid))
            self.looks += 1


def rss_bytes(pid: int) -> int:
    """Return the resident set of a process, 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def pss_bytes(pid: int) -> int:
    """Return the same with a page that n processes share counted as 1/n."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def spans(changes: Sequence[Change]) -> dict[str, list[Span]]:
    """Return for each variant from when to when it was in memory."""
    found: dict[str, list[Span]] = {}
    since: dict[str, float] = {}
    for change in changes:
        if change.loaded_in_s is not None:
            since[change.variant] = change.unix_s
        elif change.variant in since:
            begun = since.pop(change.variant)
            found.setdefault(change.variant, []).append((begun, change.unix_s))
    for variant, begun in since.items():
        found.setdefault(variant, []).append((begun, math.inf))
    return found


def loads(changes: Sequence[Change]) -> list[Span]:
    """Return from when to when something was loaded."""
    return [
        (change.unix_s - change.loaded_in_s, change.unix_s)
        for change in changes
        if change.loaded_in_s is not None
    ]


def is_hit(asked: Asked, resident: dict[str, list[Span]]) -> bool:
    """Tell whether a model was in memory from when it was asked until it had answered."""
    return any(
        begin <= asked.due_s and asked.done_s <= end
        for begin, end in resident.get(f"{asked.model}:1", ())
    )


def overlaps(asked: Asked, busy: Iterable[Span]) -> bool:
    """Tell whether a request was under way in one of these spans."""
    return any(begin < asked.done_s and asked.due_s < end for begin, end in busy)


def latency(values: Iterable[float]) -> Latency:
    """Return what is told of latencies."""
    ordered = sorted(values)
    if not ordered:
        return Latency(0, None, None, None)
    return Latency(len(ordered), nearest(ordered, 0.5), nearest(ordered, 0.99), ordered[-1])


def nearest(ordered: Sequence[float], share: float) -> float:
    """Return a quantile by nearest rank of sorted values, of which there is at least one."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def judge(calm: list[Asked], everything: list[Asked], changes: Sequence[Change]) -> ManyRound:
    """Return what one round shows."""
    resident, busy = spans(changes), loads(changes)
    popular = {asked.model for asked in calm}
    hits = [asked for asked in everything if is_hit(asked, resident)]
    missed = [asked for asked in everything if not is_hit(asked, resident)]
    both = [*calm, *everything]
    compared = [a for a in hits if a.model in popular and overlaps(a, busy)]
    return ManyRound(
        len(everything),
        sum(asked.outcome != "ok" for asked in both),
        len(hits),
        latency(asked.latency_ms for asked in calm if is_hit(asked, resident)),
        latency(asked.latency_ms for asked in compared),
        latency(asked.latency_ms for asked in missed if asked.outcome == "ok"),
        dict(Counter(asked.outcome for asked in both)),
    )


def zipf(count: int) -> list[float]:
    """Return how popular models are by their rank."""
    return [1 / rank**EXPONENT for rank in range(1, count + 1)]


def offer(server: ManySalver, count: int, seconds: float, seed: int) -> list[Asked]:
    """Ask the first so many models for a while."""
    entries = [*server.requests().items()][:count]
    models = [
        {
            "path": server.endpoint(name).path,
            "body": body_of(entry["row"]).decode(),
            "share": share,
        }
        for (name, entry), share in zip(entries, zipf(count), strict=True)
    ]
    target = server.endpoint(entries[0][0])
    plan = {
        "port": target.port,
        "headers": {**target.headers, **JSON},
        "models": models,
        "rate_per_s": RATE_PER_S,
        "seconds": seconds,
        "seed": seed,
        "connections": CONNECTIONS,
        "patience_s": PATIENCE_S,
    }
    file = server.folder / "plan.json"
    file.write_text(json.dumps(plan))
    found = run_loop(file, seconds + PATIENCE_S + 60)
    names = [name for name, _ in entries]
    columns = (found["models"], found["due_s"], found["latency_ms"], found["outcomes"])
    return [Asked(names[n], *rest) for n, *rest in zip(*columns, strict=True)]


def run_loop(file: Path, timeout_s: float) -> dict[str, Any]:
    """Run the load generator once."""
    return run_module("bench.many_loop", file, timeout_s=timeout_s, failed=FAILED)


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Measure Salver; the peers load what they are told to, and nothing leaves by itself."""
    server = ManySalver(workspace, BUDGET_FOR)
    server.provision()
    memory = Memory()
    watcher = threading.Thread(target=memory.watch, args=(server.worker_pids,), daemon=True)
    rounds: list[ManyRound] = []
    try:
        server.start()
        watcher.start()
        offer(server, POPULAR, options.seconds, seed=999)
        before = len(server.changes())
        for number in range(options.rounds):
            calm = offer(server, POPULAR, options.seconds, seed=2 * number)
            seconds = ALL_TO_POPULAR * options.seconds
            everything = offer(server, len(server.sizes), seconds, seed=2 * number + 1)
            rounds.append(judge(calm, everything, server.changes()))
            print(f"many: {rounds[-1]}", flush=True)
        changes = server.changes()[before:]
    finally:
        memory.stopping.set()
        server.stop()
    results.many = Many(
        len(server.sizes),
        BUDGET_FOR,
        server.budget_bytes,
        round(sum(server.sizes.values()) / len(server.sizes)),
        RATE_PER_S,
        rounds,
        sorted(c.loaded_in_s for c in changes if c.loaded_in_s is not None),
        memory.rss_bytes,
        memory.pss_bytes,
        memory.looks,
        round(os.getloadavg()[0], 2),
    )
