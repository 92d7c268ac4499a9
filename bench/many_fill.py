"""Deploys many models and prints what each takes in memory.

Runs in Salver's environment: `python -m bench.many_fill HOME FOLDER`, where a server runs on HOME
and FOLDER is what `bench/models/many.py` wrote.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from salver.client.sync import Client

AT_ONCE = 2
KNOWN_TIMEOUT_S = 30.0


def main(home: Path, folder: Path) -> dict[str, Any]:
    """Push and deploy all; returns their sizes, and what the worker occupies besides them.

    That is what it occupies with one model, less the size of that.
    """
    requests: dict[str, Any] = json.loads((folder / "many.json").read_text())

    def push(name: str) -> None:
        example = folder / f"{name}-example.json"
        example.write_text(json.dumps([requests[name]["row"]]))
        with Client(home=home) as client:
            client.push(folder / f"{name}.onnx", name, example=example)
            client.deploy(name)

    first, *others = requests
    push(first)
    with Client(home=home) as client:
        sizes = sizes_of(client, 1)
        (worker,) = [w for w in client.workers() if w["kind"] == "shared"]
        pages = int(Path(f"/proc/{worker['pid']}/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE")
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(push, others))
        beside_bytes = resident - sizes[first]
        return {"sizes": sizes_of(client, len(requests)), "beside_bytes": beside_bytes}


def sizes_of(client: Client, count: int) -> dict[str, int]:
    """Return what each of so many models took, as soon as that is known."""
    end = time.monotonic() + KNOWN_TIMEOUT_S
    while True:
        models = client.models()
        found = {model["name"]: model["versions"][0]["memory_bytes"] or 0 for model in models}
        if len(found) == count and all(found.values()):
            return found
        if time.monotonic() > end:
            raise SystemExit("not all models were loaded and measured")
        time.sleep(0.5)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
