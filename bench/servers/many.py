"""Salver with a hundred models in one shared worker, of which its budget has room for some."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.modules import run_module
from bench.servers.base import JSON
from bench.servers.salver import Salver
from bench.wire_http import Target
from bench.workspace import Workspace

FILL_TIMEOUT_S = 1800.0
SETTLE_S = 3.0
ROOM_FOR_ALL_BYTES = 1 << 36
WORKER = "shared-0"


@dataclass(frozen=True, slots=True)
class Change:
    """A model came into memory, after so many seconds of loading, or left it (None)."""

    variant: str
    unix_s: float
    loaded_in_s: float | None


def changes(lines: Iterator[str] | list[str]) -> list[Change]:
    """Read from a worker's log when which model came and left."""
    found = []
    for line in lines:
        if '"model_loaded"' not in line and '"model_evicted"' not in line:
            continue
        event: dict[str, Any] = json.loads(line)
        unix_s = datetime.fromisoformat(event["timestamp"]).timestamp()
        found.append(Change(event["variant"], unix_s, event.get("seconds")))
    return found


class ManySalver(Salver):
    """`provision` fills a home once and keeps it, as a hundred pushes take minutes."""

    def __init__(self, workspace: Workspace, budget_for: int) -> None:
        super().__init__(workspace, ())
        self.budget_for = budget_for
        self.budget_bytes = 0
        self.sizes: dict[str, int] = {}
        self._kept = workspace.models / "many-home"

    def names(self) -> list[str]:
        """Return the models' names."""
        return [*self.requests()]

    def requests(self) -> dict[str, Any]:
        """Return for each model a row to ask with and what ONNX Runtime says to it."""
        found: dict[str, Any] = json.loads((self.workspace.many / "many.json").read_text())
        return found

    def provision(self) -> None:
        """Fill the home where it is missing, measure the models, and set the budget."""
        facts_file = self._kept / "facts.json"
        stamp = hashlib.sha256((self.workspace.many / "many.json").read_bytes()).hexdigest()
        if not facts_file.is_file() or json.loads(facts_file.read_text())["stamp"] != stamp:
            self._fill(stamp, facts_file)
        self.begin()
        home = self.folder / "home"
        home.rmdir()
        aside = shutil.ignore_patterns("*.sock", "models")
        shutil.copytree(self._kept / "home", home, copy_function=_linked, ignore=aside)
        facts = json.loads(facts_file.read_text())
        self.sizes = facts["sizes"]
        average = sum(self.sizes.values()) / len(self.sizes)
        self.budget_bytes = round(facts["beside_bytes"] + self.budget_for * average)
        self._allow(self.budget_bytes)

    def _allow(self, budget_bytes: int) -> None:
        settings = {"engine": {"memory_budget_bytes": budget_bytes}}
        (self.folder / "home" / "salver.yaml").write_text(json.dumps(settings))

    def _fill(self, stamp: str, facts_file: Path) -> None:
        """Push, deploy and load all within a budget that has room for them; writes what they took.

        With a budget one is loaded at a time, and so measured.
        """
        self.begin()
        self._allow(ROOM_FOR_ALL_BYTES)
        print(f"pushing {len(self.names())} models, once; this takes minutes", flush=True)
        self.command(*self._up(), "--detach")
        try:
            facts = self._measured()
        finally:
            self.command("stop")
        shutil.rmtree(self._kept, ignore_errors=True)
        self._kept.mkdir(parents=True)
        shutil.move(self.folder / "home", self._kept / "home")
        facts_file.write_text(json.dumps({**facts, "stamp": stamp}))

    def _measured(self) -> dict[str, Any]:
        return run_module(
            "bench.many_fill",
            self.folder / "home",
            self.workspace.many,
            timeout_s=FILL_TIMEOUT_S,
            failed="the models were not deployed",
        )

    def probe(self) -> tuple[Target, bytes, dict[str, str]]:
        """Ask the first model."""
        name, entry = next(iter(self.requests().items()))
        return self.endpoint(name), body_of(entry["row"]), JSON

    def start(self) -> float:
        """Start, and let what was needed for the first answer come to rest.

        All files are read before, so that no load has to wait for the disk.
        """
        for file in (self.folder / "home" / "blobs").rglob("*"):
            if file.is_file():
                file.read_bytes()
        seconds = super().start()
        time.sleep(SETTLE_S)
        return seconds

    def worker_pids(self) -> list[int]:
        """Return the processes of the shared worker, or of it and its successor."""
        table = json.loads((self.folder / "home" / "run" / "processes.json").read_text())
        return [
            entry["pid"]
            for entry in table["processes"]
            if entry["identity"].startswith(WORKER) and entry["pid"] is not None
        ]

    def changes(self) -> list[Change]:
        """Return when which model came and left, of all shared workers so far."""
        logs = sorted((self.folder / "home" / "logs").glob(f"{WORKER}*.log"))
        return [change for log in logs for change in changes(log.read_text().splitlines())]


def body_of(row: list[float]) -> bytes:
    """Return an OIP request for one row."""
    entry = {"name": "pixels", "shape": [1, len(row)], "datatype": "FP32", "data": row}
    return json.dumps({"inputs": [entry]}, separators=(",", ":")).encode()


def _linked(source: str, target: str) -> None:
    """Copy a file; blobs are never written to, so a second name of theirs does."""
    if "/blobs/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
