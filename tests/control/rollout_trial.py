"""Control with a rollout, killed again and again at random moments; workers and gateway live on.

Arguments: folder, kills, seed. A server runs with real traffic, and a rollout with many steps goes
on while its control is killed, until a person is asked for the promotion. Then the traffic ends,
control is killed once more, and the rollout is promoted. Prints one JSON object: kills, the final
state, all transitions as they are stored, every plan weight that was seen, how many requests the
canary has answered, and the different counts of them that were read after that last kill.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from salver.core.errors import SalverError
from salver.wire.planfile import read_plan
from tests.e2e.load import Load
from tests.e2e.server import Server, wait_until

STEPS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 60, 80, 100)
ANALYSIS = "warmup_s: 0\nwarmup_requests: 1\npromote_on: no_worse\nlatency_floor_s: 1\n"
LONGEST_LIFE_S = 2.0
PATIENCE_S = 240.0
CONVERGED_S = 120.0
READINGS = 100
"""Of counts after the last kill: gateways tell all that they know more than once meanwhile."""


def weight_of(home: Path) -> float:
    """Return the canary's weight in the plan on disk, in percent."""
    plan = read_plan(home / "run" / "plan.msgpack")
    variants = plan.endpoints[0].variants if plan is not None and plan.endpoints else ()
    return sum(v.weight for v in variants if v.id == "scaled:2") / 100


def rollout_of(server: Server) -> dict[str, Any]:
    """Return the rollout, empty while control is away."""
    try:
        with server.client() as client:
            found: dict[str, Any] = client.rollout("scaled")
    except SalverError:
        return {}
    return found


def kill_control(server: Server) -> bool:
    """Kill control, and tell whether it was there."""
    pid = server.pid_of("control")
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    return pid is not None


def step_and_kill(server: Server, kills: int, rng: random.Random) -> tuple[int, list[float]]:
    """Kill control at random until the rollout stops; returns how often, and all weights."""
    weights: list[float] = []
    killed, deadline = 0, time.monotonic() + PATIENCE_S
    while rollout_of(server).get("state") not in ("promoted", "rolled_back", "paused"):
        assert time.monotonic() < deadline, "the rollout does not end"
        end = time.monotonic() + rng.random() * LONGEST_LIFE_S
        while time.monotonic() < end:
            weights.append(weight_of(server.home))
            time.sleep(0.005)
        if killed < kills:
            killed += kill_control(server)
    return killed, weights


def has_all(server: Server, sent: int) -> bool:
    """Wait until all of the canary's requests are counted, and tell whether that came to be."""
    try:
        wait_until(lambda: rollout_of(server).get("requests") == sent, "all come", CONVERGED_S)
    except AssertionError:
        return False
    return True


def counts_after_a_kill(server: Server, sent: int) -> list[int]:
    """Return the different counts of the canary's requests that are read once all have come.

    Control is killed in between, so that what it has stored, which is of up to a second before,
    and what gateways tell come together. If not all come, the count that is there instead.
    """
    if has_all(server, sent):
        wait_until(lambda: kill_control(server), "control is there")
        has_all(server, sent)
    found: list[int] = []
    while len(found) < READINGS:
        known = rollout_of(server)
        found += [known["requests"]] if known else []
        time.sleep(0.1)
    return sorted(set(found))


def main(folder: Path, kills: int, seed: int) -> None:
    """Run the trial and print what it found."""
    home, rng = folder / "home", random.Random(seed)
    home.mkdir()
    (home / "salver.yaml").write_text(
        "control: {rollout_interval_s: 0.1, snapshot_interval_s: 0.2}\n"
        "supervisor: {backoff_max_s: 0.05}\n"
    )
    analysis = folder / "analysis.yaml"
    analysis.write_text(ANALYSIS)
    with Server(home) as server:
        for scale in (2, 3):
            server.push_scaled(folder, scale)
        server.ok("deploy", "scaled:1", "--endpoint", "scaled")
        with Load(server.port, "scaled", connections=16, pause_s=0.01) as load:
            server.ok(
                "rollout", "start", "scaled", "--to", "2", "--min-requests", "20",
                "--steps", ",".join(map(str, STEPS)), "--analysis", str(analysis),
            )  # fmt: skip
            killed, weights = step_and_kill(server, kills, rng)
        sent = load.factors[3.0]
        counted = counts_after_a_kill(server, sent)
        server.ok("rollout", "promote", "scaled")
        with server.client() as client:
            events = client.rollout_history("scaled", 1000)
            final = client.rollout("scaled")
    report = {
        "kills": killed,
        "state": final["state"],
        "reason": final["reason"],
        "events": [(e["sequence"], e["event"], e["step"], e["weight"]) for e in events[::-1]],
        "weights": [w for w, before in zip(weights, [-1.0, *weights], strict=False) if w != before],
        "failed": sum(load.failed.values()) + load.broken + load.wrong,
        "answered": load.answered,
        "sent": sent,
        "counted": counted,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
