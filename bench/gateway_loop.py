"""The gateway alone: microseconds per request of its HTTP side, without engine and worker.

Run: `python -m bench.gateway_loop [--seconds N] [--connections N] [--plain] [--profile]`.
The last handler answers in process with two numbers, so what is left is parsing, checking, JSON
and writing. `wrk` (a Debian package) asks from a process of its own.
"""

import argparse
import asyncio
import cProfile
import os
import pstats
import random
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import orjson
import uvloop

from salver.core.clock import SystemClock
from salver.core.context import RequestContext
from salver.core.exchange import ExchangeRing
from salver.core.handler import Responder
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.settings import HttpSettings
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.gateway.auth import Keys
from salver.gateway.http.server import HttpServer
from salver.gateway.oip.infer import Inference
from salver.gateway.oip.routes import Directory, Routes
from salver.gateway.triton.statistics import Statistics
from salver.gateway.validation import SignatureCheck
from salver.observe.exchanges import ExchangeMetrics
from salver.observe.meter import Meter
from salver.traffic.router import Router
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

FEATURES = 30
_ANSWER = bytes(8)


class Echo:
    """Handler that answers at once with two zeros."""

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer."""
        del request, context
        responder.send(InferenceResponse([Tensor("y", "FP32", (1, 2), _ANSWER)]))


def plan() -> Plan:
    """Return a plan with one endpoint that takes 30 numbers."""
    signature = Signature(
        (TensorSpec("x", "FP32", (-1, FEATURES)),), (TensorSpec("y", "FP32", (-1, 2)),)
    )
    variant = VariantPlan(
        "m:1", "primary", "m", "1", "0" * 64, "test", 10_000, 1, signature, ("shared-0",)
    )
    return Plan(1, 0, (EndpointPlan("m", (variant,)),))


def server(settings: HttpSettings) -> tuple[HttpServer, ExchangeRing]:
    """Put the HTTP side together as a gateway does, around the echo."""
    clock, meter, rng = SystemClock(), Meter(), random.Random(0)
    check = SignatureCheck(Echo(), meter)
    router = Router(check, rng)
    check.apply(plan())
    router.apply(plan())
    ring = ExchangeRing(32 * 1024 * 1024)
    ring.subscribe(ExchangeMetrics(meter))
    ring.subscribe(Statistics(ring, router.endpoint, clock))
    inference = Inference(router, router.endpoint, ring, settings, clock)
    directory = Directory(router.endpoint, lambda _: True, lambda: True, router.endpoints)
    ids = RequestIds(b"k" * 32, 1, clock)
    routes = Routes(inference, directory, Keys(None), ids, lambda _: None)
    return HttpServer(settings, clock, routes.answer, routes.refuse), ring


def script() -> str:
    """Return what wrk shall send: one row of 30 numbers as JSON."""
    data = [round(0.1 + i / 7, 6) for i in range(FEATURES)]
    item = {"name": "x", "shape": [1, FEATURES], "datatype": "FP32", "data": data}
    body = orjson.dumps({"inputs": [item]}).decode()
    return f"wrk.method='POST'\nwrk.body='{body}'\nwrk.headers['Content-Type']='application/json'\n"


async def measure(options: argparse.Namespace) -> None:
    """Serve, have wrk ask, print processor time per answer."""
    settings = HttpSettings(remember_heads=not options.plain)
    if options.plain:
        settings = HttpSettings(remember_heads=False, json_mode="plain")
    running, ring = server(settings)
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/v2/models/m/infer"
    await running.start(listening)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ask.lua"
        path.write_text(script())
        command = ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}", "--latency"]
        before = os.times()
        asking = await asyncio.create_subprocess_exec(
            *command, "-s", str(path), url, stdout=asyncio.subprocess.PIPE
        )
        drains = asyncio.create_task(_drain(ring))
        out, _ = await asking.communicate()
        after = os.times()
        drains.cancel()
    await running.stop()
    text = out.decode()
    answered = int(text.split(" requests in ")[0].split()[-1])
    print(text)
    user_us = (after.user - before.user) / answered * 1e6
    system_us = (after.system - before.system) / answered * 1e6
    print(f"processor time per request: {user_us:.2f} us user, {system_us:.2f} us system")


async def _drain(ring: ExchangeRing) -> None:
    while True:
        await asyncio.sleep(0.1)
        ring.drain()


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--plain", action="store_true", help="without the quick ways")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    if not options.profile:
        uvloop.run(measure(options))
        return
    profile = cProfile.Profile()
    profile.runcall(uvloop.run, measure(options))
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
