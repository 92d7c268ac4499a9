"""More images than a server can answer: what it still answers in time, and how it recovers."""

from __future__ import annotations

from contextlib import ExitStack

from bench.failure import BenchError
from bench.offered import Contestant, Offered, Plan, offer, settle
from bench.options import Options
from bench.parts.image import check_image, closed_loop
from bench.results import Overload, OverloadStep, Results
from bench.servers.image import IMAGE_SERVERS, MAX_WAIT_MS, ImageServer, known
from bench.workspace import Workspace

TIMES = (0.5, 0.8, 1.0, 1.5, 2.0)
MOST = 10.0
UNLOADED, AFTER = 0.25, 0.7
AFTER_S = 8.0
ORDER = ("salver", "triton-limited", "triton", "mlserver")
"""The last step leaves some with a long queue, so each comes after those it would disturb."""


class Trial:
    """One server's way through all steps."""

    def __init__(self, server: ImageServer, contestant: Contestant, options: Options) -> None:
        self.server = server
        self.contestant = contestant
        self.steps: list[OverloadStep] = []
        self.capacity_per_s = self.unloaded_p99_ms = self.bound_ms = 0.0
        self._options = options
        self._workspace = server.workspace

    def prepare(self) -> None:
        """Find the capacity, and how long a request takes when there is little to do."""
        self.capacity_per_s = closed_loop(self.contestant, self._options.seconds)
        rate = UNLOADED * self.capacity_per_s
        found = self._offer(rate, 2 * self._options.seconds, 1e6)
        # A server may refuse some of them even so.
        if found.accepted_p99_ms is None:
            raise BenchError(f"{self.contestant.name} does not answer a quarter of its capacity")
        self.unloaded_p99_ms = found.accepted_p99_ms
        self.bound_ms = 2 * found.accepted_p99_ms + MAX_WAIT_MS
        print(
            f"{self.contestant.name:<15}capacity {self.capacity_per_s:.1f}/s, unloaded p99 "
            f"{found.accepted_p99_ms:.0f} ms, in time is {self.bound_ms:.0f} ms",
            flush=True,
        )

    def step(self, times: float, seconds: float = 0.0) -> OverloadStep:
        """Offer a multiple of the capacity."""
        seconds = seconds or self._options.seconds
        found = self._offer(times * self.capacity_per_s, seconds, self.bound_ms)
        made = OverloadStep(times, found, self.server.memory().pss_kib * 1024 / 1e6)
        print(
            f"{self.contestant.name:<15}{times:5.2f} × capacity: {found.in_time_per_s:6.1f}/s in "
            f"time, accepted p99 {found.accepted_p99_ms or float('nan'):,.0f} ms, refused "
            f"{found.refused} (p99 {found.refusal_p99_ms or float('nan'):.1f} ms), "
            f"{made.pss_mb:.0f} MB  {found.outcomes}",
            flush=True,
        )
        return made

    def _offer(self, rate_per_s: float, seconds: float, within_ms: float) -> Offered:
        # What comes after an overload is looked at from its first moment on.
        warm_up_s = 0.0 if seconds == AFTER_S else self._options.warm_up_s
        plan = Plan(rate_per_s, seconds, within_ms, warm_up_s)
        return offer(self.contestant, plan, self._workspace.run)


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Take all servers through the rates, step by step, then each through ten times and after."""
    outputs = known(workspace)[1]
    with ExitStack() as stack:
        trials: list[Trial] = []
        for name in options.servers:
            if name not in IMAGE_SERVERS:
                continue
            server = IMAGE_SERVERS[name](workspace, ())
            server.provision()
            stack.callback(server.stop)
            server.start()
            for contestant in server.contestants():
                check_image(contestant, outputs)
                trials.append(Trial(server, contestant, options))
        trials.sort(key=lambda trial: ORDER.index(trial.contestant.name))
        for trial in trials:
            trial.prepare()
        for times in TIMES:
            for trial in trials:
                trial.steps.append(trial.step(times))
                settle(trial.contestant)
        for trial in trials:
            trial.steps.append(trial.step(MOST))
            after = trial.step(AFTER, AFTER_S)
            results.overload[trial.contestant.name] = Overload(
                trial.capacity_per_s,
                trial.unloaded_p99_ms,
                trial.bound_ms,
                trial.steps,
                after,
            )
            if not any(later.server is trial.server for later in trials[trials.index(trial) + 1 :]):
                trial.server.stop()
