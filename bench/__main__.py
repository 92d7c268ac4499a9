"""`python -m bench`: measure, print the tables, write them to `bench/results/`."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from datetime import datetime

from bench import machine
from bench.environments import BENCH
from bench.failure import BenchError
from bench.options import Options, parse
from bench.parts import (
    binary,
    cold,
    grpc,
    grpc_binary,
    image,
    json_large,
    many,
    overload,
    rollback,
    routing,
    shadow,
    startup,
    tabular,
    text,
)
from bench.report import render, write
from bench.results import Results
from bench.workspace import Workspace, make_workspace

PARTS: dict[str, Callable[[Options, Workspace, Results], None]] = {
    "tabular": tabular.run,
    "grpc": grpc.run,
    "binary": binary.run,
    "grpc-binary": grpc_binary.run,
    "json-large": json_large.run,
    "startup": startup.run,
    "cold": cold.run,
    "rollback": rollback.run,
    "text": text.run,
    "image": image.run,
    "overload": overload.run,
    "many": many.run,
    "shadow": shadow.run,
    "routing": routing.run,
}
INTERRUPTED = 130
PEERS = {
    "ceiling": "onnxruntime",
    "mlserver": "mlserver",
    "triton": "nvidia-pytriton",
    "litserve": "litserve",
}


def versions(servers: tuple[str, ...]) -> dict[str, str]:
    """Locked versions of what is compared."""
    found = {}
    for name in servers:
        if package := PEERS.get(name):
            text = (BENCH / "peers" / f"{name}.lock").read_text()
            match = re.search(rf"^{package}==(\S+)", text, re.MULTILINE)
            found[package] = match.group(1) if match else "unknown"
    return found


def main(arguments: list[str]) -> int:
    """Run the chosen parts; what was measured before a failure or Ctrl-C is still reported."""
    options = parse(arguments)
    # Whoever ends the bench ends its servers, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    now = datetime.now().astimezone()
    results = Results(
        machine=machine.describe(machine.pin()),
        started=now.isoformat(" ", "minutes"),
        rounds=options.rounds,
        seconds=options.seconds,
        versions=versions(options.servers),
    )
    code = 0
    try:
        workspace = make_workspace()
        for part in options.parts:
            PARTS[part](options, workspace, results)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("bench: interrupted; what was measured until then is kept", file=sys.stderr)
        code = INTERRUPTED
    print("\n" + render(results))
    page = write(results, BENCH / "results", f"{now:%Y-%m-%d-%H%M}-{options.name}")
    print(f"written to {page} and {page.with_suffix('.json').name}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
