"""Control with a rollout, killed again and again at random moments; workers and gateway live on.

Arguments: folder, kills, seed. A server runs with real traffic, and a rollout with many steps goes
on while its control is killed. Prints one JSON object: kills, the final state, all transitions as
they are stored, and every plan weight that was seen.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from salver.core.errors import SalverError
from salver.wire.planfile import read_plan
from tests.e2e.load import Load
from tests.e2e.server import Server

STEPS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 60, 80, 100)
ANALYSIS = "warmup_s: 0\nwarmup_requests: 1\npromote_on: no_worse\nlatency_floor_s: 1\n"
LONGEST_LIFE_S = 2.0
PATIENCE_S = 240.0


def weight_of(home: Path) -> float:
    """Return the canary's weight in the plan on disk, in percent."""
    plan = read_plan(home / "run" / "plan.msgpack")
    variants = plan.endpoints[0].variants if plan is not None and plan.endpoints else ()
    return sum(v.weight for v in variants if v.id == "scaled:2") / 100


def state_of(server: Server) -> str:
    """Return the rollout's state, empty while control is away."""
    try:
        with server.client() as client:
            return str(client.rollout("scaled")["state"])
    except SalverError:
        return ""


def main(folder: Path, kills: int, seed: int) -> None:
    """Run the trial and print what it found."""
    home, rng = folder / "home", random.Random(seed)
    home.mkdir()
    (home / "salver.yaml").write_text(
        "control: {rollout_interval_s: 0.1}\nsupervisor: {backoff_max_s: 0.05}\n"
    )
    analysis = folder / "analysis.yaml"
    analysis.write_text(ANALYSIS)
    weights: list[float] = []
    with Server(home) as server:
        for scale in (2, 3):
            server.push_scaled(folder, scale)
        server.ok("deploy", "scaled:1", "--endpoint", "scaled")
        with Load(server.port, "scaled", connections=16, pause_s=0.01) as load:
            server.ok(
                "rollout", "start", "scaled", "--to", "2", "--auto", "--min-requests", "20",
                "--steps", ",".join(map(str, STEPS)), "--analysis", str(analysis),
            )  # fmt: skip
            killed, deadline = 0, time.monotonic() + PATIENCE_S
            while state_of(server) not in ("promoted", "rolled_back", "paused"):
                assert time.monotonic() < deadline, "the rollout does not end"
                end = time.monotonic() + rng.random() * LONGEST_LIFE_S
                while time.monotonic() < end:
                    weights.append(weight_of(home))
                    time.sleep(0.005)
                pid = server.pid_of("control")
                if killed < kills and pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
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
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
