"""One image per request as a binary tensor: images/s beside bare ONNX Runtime with one thread."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from contextlib import ExitStack

from bench.check import difference
from bench.environments import BENCH, environment, site_packages
from bench.failure import BenchError
from bench.offered import Contestant
from bench.options import Options
from bench.results import Results
from bench.servers.image import IMAGE_SERVERS, known
from bench.wire_http import Connection
from bench.workspace import Workspace

CALLERS = 2
"""One whose image runs, and one whose image waits."""
TIMEOUT_S = 30.0
BARE = "onnxruntime"


def bare(workspace: Workspace, seconds: float) -> float:
    """Return images/s of ONNX Runtime by itself."""
    python = environment("models") / "bin" / "python"
    packages = site_packages(environment("real-models"))
    code = str(BENCH / "offline.py")
    arguments = [str(workspace.real), str(packages), "image", str(seconds)]
    done = subprocess.run(
        [str(python), code, *arguments], check=True, capture_output=True, text=True, timeout=120
    )
    return float(json.loads(done.stdout)["images_per_s"])


def check_image(contestant: Contestant, outputs: dict[str, list[float]]) -> None:
    """The answer must be ONNX Runtime's own."""
    connection = Connection(contestant.target, TIMEOUT_S, 1 << 20)
    try:
        answer = connection.post(contestant.bodies.read_bytes(), contestant.headers)
        document = json.loads(bytes(answer.body))
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"{contestant.name} answered {answer.status}: {document}")
    wrong = difference({one["name"]: one["data"] for one in document["outputs"]}, outputs)
    if wrong:
        raise BenchError(f"{contestant.name}: {wrong}")


def closed_loop(contestant: Contestant, seconds: float) -> float:
    """Return images/s that `CALLERS` get who ask again as soon as they are answered."""
    body = contestant.bodies.read_bytes()
    end = time.monotonic() + seconds
    counts: list[int] = []

    def call() -> None:
        connection, count = Connection(contestant.target, TIMEOUT_S, 1 << 20), 0
        try:
            while time.monotonic() < end:
                count += connection.post(body, contestant.headers).status == 200
        finally:
            connection.close()
            counts.append(count)

    begin = time.monotonic()
    callers = [threading.Thread(target=call, daemon=True) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(seconds + 2 * TIMEOUT_S)
    return sum(counts) / (time.monotonic() - begin)


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Start every server, check its answer, measure in interleaved rounds."""
    outputs = known(workspace)[1]
    with ExitStack() as stack:
        contestants: list[Contestant] = []
        for name in options.servers:
            if name not in IMAGE_SERVERS:
                continue
            server = IMAGE_SERVERS[name](workspace, ())
            server.provision()
            stack.callback(server.stop)
            server.start()
            first = server.contestants()[0]
            check_image(first, outputs)
            contestants.append(first)
        for number in range(options.rounds):
            results.image.setdefault(BARE, []).append(bare(workspace, options.seconds))
            for contestant in contestants:
                closed_loop(contestant, options.warm_up_s)
                figure = closed_loop(contestant, options.seconds)
                results.image.setdefault(contestant.name, []).append(figure)
            line = ", ".join(f"{name} {found[-1]:.1f}" for name, found in results.image.items())
            print(f"round {number + 1}  images/s: {line}", flush=True)
