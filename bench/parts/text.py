"""Texts in, vectors out: the most answers/s of which one in a hundred at most takes over a second.

Poisson arrivals in an open loop. Each way of each server searches its own rate, a step at a time
and in turn with the others, since figures drift from minute to minute.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack

from bench.environments import BENCH, environment, site_packages
from bench.failure import BenchError
from bench.offered import Contestant, Offered, Plan, offer, settle
from bench.options import Options
from bench.results import Capacity, Results
from bench.servers.text import OBJECTIVE_MS, OUTPUT, TEXT_SERVERS, TextServer, oip_body, plain_body
from bench.wire_http import Connection
from bench.workspace import Workspace

LOWEST, GROWTH, RUNGS = 0.25, 1.03, 61
"""Rates as parts of what ONNX Runtime does one by one: 0.25 to 1.47, in steps of 3 %."""
FIRST = 44
OFFLINE_S = 3.0
TOLERANCE = 1e-3


class Search:
    """Finds the highest rung that meets the objective, by halving."""

    def __init__(self, contestant: Contestant, base_per_s: float) -> None:
        self.contestant = contestant
        self.rates = [base_per_s * LOWEST * GROWTH**rung for rung in range(RUNGS)]
        self.best: Capacity | None = None
        self._low, self._high = -1, RUNGS
        self._next = FIRST

    @property
    def rate_per_s(self) -> float | None:
        """The rate to try next, None when the search is over."""
        return self.rates[self._next] if self._low + 1 < self._high else None

    def tell(self, found: Offered) -> bool:
        """Take the outcome of that rate; returns whether it met the objective."""
        is_met = found.p99_ms is not None and found.p99_ms <= OBJECTIVE_MS
        if is_met:
            self._low = self._next
            if self.best is None or found.in_time_per_s > self.best.answers_per_s:
                self.best = Capacity(
                    found.in_time_per_s, found.rate_per_s, found.p50_ms, found.p99_ms
                )
        else:
            self._high = self._next
        self._next = (self._low + self._high) // 2
        return is_met


def offline(workspace: Workspace) -> dict[str, float]:
    """Ask ONNX Runtime itself, all texts at hand."""
    python = environment("models") / "bin" / "python"
    packages = site_packages(environment("real-models"))
    code = str(BENCH / "offline.py")
    arguments = [str(workspace.real), str(packages), "texts", str(OFFLINE_S)]
    done = subprocess.run(
        [str(python), code, *arguments], check=True, capture_output=True, text=True, timeout=120
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def check_vectors(server: TextServer, contestant: Contestant) -> None:
    """Every way must give ONNX Runtime's own vectors."""
    made = plain_body if server.name == "litserve" else oip_body
    connection = Connection(contestant.target, 10.0, 1 << 20)
    try:
        for case in json.loads((server.workspace.real / "text-cases.json").read_text()):
            answer = connection.post(made(case["text"]), contestant.headers)
            document = json.loads(bytes(answer.body))
            if answer.status != 200:
                raise BenchError(f"{contestant.name} answered {answer.status}: {document}")
            vector = document.get(OUTPUT) or document["outputs"][0]["data"]
            worst = max(abs(a - b) for a, b in zip(vector, case[OUTPUT], strict=True))
            if worst > TOLERANCE:
                raise BenchError(f"{contestant.name} is {worst:g} off for {case['text']!r}")
    finally:
        connection.close()


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Start every server, check its vectors, then search in rounds."""
    with ExitStack() as stack:
        contestants: list[Contestant] = []
        for name in options.servers:
            if name not in TEXT_SERVERS:
                continue
            server = TEXT_SERVERS[name](workspace, ())
            server.provision()
            stack.callback(server.stop)
            server.start()
            for contestant in server.contestants():
                check_vectors(server, contestant)
                print(f"{contestant.name}: right vectors", flush=True)
                contestants.append(contestant)
        for number in range(options.rounds):
            _round(number, options, workspace, results, contestants)


def _round(
    number: int,
    options: Options,
    workspace: Workspace,
    results: Results,
    contestants: list[Contestant],
) -> None:
    before = offline(workspace)
    searches = [Search(contestant, before["alone"]) for contestant in contestants]
    step = 0
    while any(search.rate_per_s for search in searches):
        step += 1
        for search in searches:
            rate = search.rate_per_s
            if rate is None:
                continue
            plan = Plan(rate, options.seconds, OBJECTIVE_MS, options.warm_up_s, seed=number + 1)
            found = offer(search.contestant, plan, workspace.run)
            word = "met" if search.tell(found) else "not met"
            settle(search.contestant)
            print(
                f"round {number + 1}.{step}  {search.contestant.name:<17}{rate:6.1f}/s offered, "
                f"{found.in_time_per_s:6.1f}/s in time, p99 {found.p99_ms or float('inf'):,.0f} ms"
                f"  {word}",
                flush=True,
            )
    after = offline(workspace)
    for key in ("alone", "sorted"):
        mean = (before[key] + after[key]) / 2
        results.text.setdefault(f"offline {key}", []).append(Capacity(mean))
    for search in searches:
        best = search.best or Capacity(0.0)
        results.text.setdefault(search.contestant.name, []).append(best)
