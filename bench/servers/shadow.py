"""Salver with an endpoint of which a second version may get copies of all requests."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

from bench.failure import BenchError
from bench.offered import ANSWER_LIMIT_BYTES, Contestant
from bench.servers.salver import Salver
from bench.wire_http import Connection, Target
from bench.workspace import Workspace

ENDPOINT = "digits"
FIRST, SECOND = "digits-005", "digits-017"
"""Two perceptrons of the same size, some milliseconds for `ROWS` rows."""
ROWS = 64
BEGIN_TIMEOUT_S = 60.0
COUNTED_S = 2.5
"""After which control knows of a copy: gateways report once a second."""


class ShadowSalver(Salver):
    """As it comes, with settings of its own where they are given."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace, ())

    def fill(self) -> None:
        """Push both versions and deploy the first."""
        rows = json.loads((self.workspace.many / "many.json").read_text())
        example = self.folder / "example.json"
        example.write_text(json.dumps([rows[FIRST]["row"]]))
        for name in (FIRST, SECOND):
            path = str(self.workspace.many / f"{name}.onnx")
            self.command("push", path, "--name", ENDPOINT, "--example", str(example))
        self.command("deploy", f"{ENDPOINT}:1")

    def contestant(self) -> Contestant:
        """Return how the endpoint is asked."""
        body, headers = many_rows(self.workspace)
        return Contestant("salver", self.endpoint(ENDPOINT), headers, body)

    def probe(self) -> tuple[Target, bytes, dict[str, str]]:
        """Ask the endpoint."""
        asked = self.contestant()
        return asked.target, asked.bodies.read_bytes(), asked.headers

    def begin_shadow(self) -> None:
        """Copy all requests to the second version; returns when it answers."""
        self.command("shadow", "start", ENDPOINT, "--version", "2", "--sample", "1")
        target, body, headers = self.probe()
        end = time.monotonic() + BEGIN_TIMEOUT_S
        while not self.copies()["differs"] + self.copies()["agrees"]:
            if time.monotonic() > end:
                raise BenchError("the shadow got no copy")
            connection = Connection(target, 5.0, ANSWER_LIMIT_BYTES)
            connection.post(body, headers)
            connection.close()
            time.sleep(0.2)
        time.sleep(COUNTED_S)

    def end_shadow(self) -> None:
        """Copy nothing more."""
        self.command("shadow", "stop", ENDPOINT)
        time.sleep(COUNTED_S)

    def copies(self) -> dict[str, int]:
        """Return what became of the copies of the newest shadow."""
        found: dict[str, Any] = json.loads(self.command("shadow", "report", ENDPOINT, "-o", "json"))
        counts: dict[str, int] = found["copies"]
        return counts


def many_rows(workspace: Workspace) -> tuple[Path, dict[str, str]]:
    """Write `ROWS` rows as a request in the binary tensor extension; returns its headers too."""
    entries = json.loads((workspace.many / "many.json").read_text())
    rows: list[list[float]] = [entry["row"] for entry in entries.values()][:ROWS]
    numbers = [number for row in rows for number in row]
    content = struct.pack(f"<{len(numbers)}f", *numbers)
    entry: dict[str, Any] = {"name": "pixels", "shape": [ROWS, len(rows[0])], "datatype": "FP32"}
    entry["parameters"] = {"binary_data_size": len(content)}
    head = json.dumps({"inputs": [entry]}).encode()
    file = workspace.run / "rows.bin"
    file.write_bytes(head + content)
    kind = {"Content-Type": "application/octet-stream"}
    return file, {**kind, "Inference-Header-Content-Length": str(len(head))}
