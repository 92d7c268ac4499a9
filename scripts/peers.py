"""Runs the conformance suite against Salver, Triton and MLServer and writes down what was seen.

`make peers` starts each with the bench's small model, one after the other, and writes
`docs/conformance-results.json`, from which `scripts/reference.py` makes `docs/conformance.md`. What
that model cannot be asked for want of a datatype or a second input is asked of models that have it.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.failure import BenchError
from bench.servers.base import Server
from bench.servers.echo import ECHOES, PAIR, EchoMLServer, EchoSalver, EchoTriton
from bench.workspace import make_workspace
from salver.conformance.report import summary
from salver.conformance.runner import run
from salver.conformance.session import opened

RESULTS = Path(__file__).parent.parent / "docs" / "conformance-results.json"
MODEL = "tabular"

PEERS: dict[str, type[Server]] = {
    "Salver": EchoSalver,
    "Triton": EchoTriton,
    "MLServer": EchoMLServer,
}


def check(server: Server) -> dict[str, Any]:
    """Start a server, ask all over REST and gRPC, stop it; returns its part of the results."""
    try:
        server.provision()
        server.start()
        target, rpc = server.tabular(), server.rpc()
        key = target.headers.get("Authorization", "").removeprefix("Bearer ")
        url, address = f"http://127.0.0.1:{target.port}", f"127.0.0.1:{rpc.port}"
        with opened(url, MODEL, *ECHOES, PAIR, grpc=address, api_key=key) as subject:
            about = subject.get("/v2").json()
            outcomes = list(run(subject))
    finally:
        server.stop()
    return {
        "version": about["version"],
        "summary": summary(outcomes),
        "checks": {
            outcome.check.name: {"verdict": str(outcome.verdict), "reason": outcome.reason}
            for outcome in outcomes
        },
    }


def main() -> int:
    """Ask every server; 1 when one could not be started, and then nothing is written."""
    workspace = make_workspace()
    servers = []
    try:
        for name, kind in PEERS.items():
            found = check(kind(workspace, (MODEL,), with_grpc=True))
            print(f"{name} {found['version']}: {found['summary']}", flush=True)
            servers.append({"name": name, **found})
    except BenchError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    results = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "servers": servers}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
