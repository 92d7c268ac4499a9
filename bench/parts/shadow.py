"""An endpoint without and with a shadow that gets a copy of every request.

The same arrivals are offered in turn, at half of the capacity and then at more than it.
"""

from __future__ import annotations

import os
import time

from bench.offered import Offered, Plan, offer, settle
from bench.options import Options
from bench.parts.image import closed_loop
from bench.results import Results, Shadow, ShadowRound
from bench.servers.shadow import COUNTED_S, ShadowSalver
from bench.workspace import Workspace

HALF, OVER = 0.5, 1.5
WITHIN_MS = 5000.0


class Trial:
    """One server's way through all rounds."""

    def __init__(self, server: ShadowSalver, options: Options, workspace: Workspace) -> None:
        self._server = server
        self._options = options
        self._workspace = workspace
        self._asked = server.contestant()

    def capacity_per_s(self) -> float:
        """Return what two callers get who ask again as soon as they are answered."""
        closed_loop(self._asked, self._options.warm_up_s)
        return closed_loop(self._asked, self._options.seconds)

    def round(self, rate_per_s: float, number: int) -> ShadowRound:
        """Offer a rate without and with the shadow; every other round the other way round."""
        if number % 2:
            beside, copies = self._beside(rate_per_s, number)
            without = self._offer(rate_per_s, number)
        else:
            without = self._offer(rate_per_s, number)
            beside, copies = self._beside(rate_per_s, number)
        return ShadowRound(without, beside, copies)

    def _beside(self, rate_per_s: float, number: int) -> tuple[Offered, dict[str, int]]:
        server = self._server
        server.begin_shadow()
        before = server.copies()
        found = self._offer(rate_per_s, number)
        time.sleep(COUNTED_S)
        after = server.copies()
        server.end_shadow()
        return found, {name: after[name] - before[name] for name in after}

    def _offer(self, rate_per_s: float, number: int) -> Offered:
        options = self._options
        plan = Plan(rate_per_s, options.seconds, WITHIN_MS, options.warm_up_s, seed=number + 1)
        found = offer(self._asked, plan, self._workspace.run)
        settle(self._asked)
        return found


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Measure Salver; the peers have no shadows."""
    server = ShadowSalver(workspace)
    server.provision()
    try:
        server.start()
        trial = Trial(server, options, workspace)
        capacity_per_s = trial.capacity_per_s()
        print(f"shadow: capacity {capacity_per_s:.0f}/s", flush=True)
        half = []
        for number in range(options.rounds):
            half.append(trial.round(HALF * capacity_per_s, number))
            print(f"shadow: {_line(half[-1])}", flush=True)
        over = trial.round(OVER * capacity_per_s, options.rounds)
        print(f"shadow, {OVER:g} × the capacity: {_line(over)}", flush=True)
    finally:
        server.stop()
    results.shadow = Shadow(capacity_per_s, half, over, round(os.getloadavg()[0], 2))


def _line(one: ShadowRound) -> str:
    words = [
        f"{name} p50 {found.p50_ms or float('nan'):.2f} ms, p99 {found.p99_ms or float('nan'):.2f} "
        f"ms, {found.in_time_per_s:.1f}/s"
        for name, found in (("without", one.without), ("with", one.beside))
    ]
    return f"{'; '.join(words)}; copies {one.copies}"
