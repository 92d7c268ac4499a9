"""The real control process, killed again and again while callers push and move aliases.

Arguments: folder, kills, seed. Control is forked from a process that has imported everything, so
that a start takes a fraction of a second, and inherits its listening socket as it does from the
supervisor. Callers are processes of their own that speak HTTP and write down what was acknowledged.
Prints one JSON object: kills, what was acknowledged, and all that was not there afterwards.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import onnx

from salver.control import __main__ as control
from salver.core.clock import SystemClock
from salver.registry.blobs import BlobStore
from salver.registry.catalog import Catalog
from salver.registry.database import Database
from tests import models
from tests.registry.stored import stored_alias

MODEL, ALIAS = "churn", "champion"
LONGEST_LIFE_S = 0.05
PATIENCE_S = 60.0
# Every so many kills one waits for a whole push; a push takes longer than a short life.
PUSH_EVERY = 10


class Diary:
    """What one caller was told; read by the trial while the caller writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def note(self, kind: str, **facts: Any) -> None:
        """Write down one acknowledged write."""
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, **facts}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return everything so far; a line still being written is left out."""
        return [json.loads(line) for line in self._path.read_text().split("\n")[:-1]]

    def gets(self, kind: str) -> Callable[[], bool]:
        """Return a question: was another of this kind acknowledged since now?"""
        mark = f'{{"kind": "{kind}"'
        before = self._path.read_text().count(mark)
        return lambda: self._path.read_text().count(mark) > before


class Caller:
    """Speaks to control, whichever incarnation answers; a call that breaks is not acknowledged."""

    def __init__(self, home: Path, port: int, diary: Diary) -> None:
        token = (home / "control.token").read_text()
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1",
            headers={"authorization": f"Bearer {token}"},
            timeout=PATIENCE_S,
        )
        self._diary = diary

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        try:
            response = self._client.request(method, path, **options)
        except httpx.HTTPError:
            return None
        assert response.status_code < 300, response.text
        return response

    def push(self, number: int) -> None:
        """Upload and register one model that nobody pushed before."""
        model = onnx.load(models.onnx_identity("FP32"))
        model.doc_string = f"number {number}"
        content = model.SerializeToString()
        sha256 = hashlib.sha256(content).hexdigest()
        if self._call("PUT", f"/blobs/{sha256}", content=content) is None:
            return
        self._diary.note("blob", sha256=sha256)
        files = [{"path": "model.onnx", "sha256": sha256, "size_bytes": len(content)}]
        answer = self._call("POST", f"/models/{MODEL}/versions", json={"files": files})
        if answer is not None:
            version = answer.json()
            self._diary.note("version", version=version["version"], digest=version["digest"])

    def move(self, version: int) -> None:
        """Move the alias."""
        path = f"/models/{MODEL}/aliases/{ALIAS}"
        self._diary.note("try", version=version)
        if self._call("PUT", path, json={"version": version}) is not None:
            self._diary.note("alias", version=version)


def forked(work: Callable[[], None]) -> int:
    """Run something in a child; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    finally:
        os._exit(1)


def start_control(home: Path, listening: socket.socket) -> int:
    """Run control on the inherited socket."""
    listening.set_inheritable(True)
    return forked(lambda: control.main(["--home", str(home), "--fd", str(listening.fileno())]))


def end(pid: int) -> None:
    """kill -9 and wait."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.002)


def push_for_ever(home: Path, port: int, diary: Diary) -> None:
    """Push one model after another."""
    caller, number = Caller(home, port, diary), 0
    while True:
        caller.push(number)
        number += 1


def move_for_ever(home: Path, port: int, diary: Diary, pushed: Diary) -> None:
    """Move the alias to and fro between the versions that were acknowledged."""
    caller, rng = Caller(home, port, diary), random.Random(7)
    while True:
        versions = [fact["version"] for fact in pushed.read() if fact["kind"] == "version"]
        caller.move(rng.choice(versions or [1]))


def problems(home: Path, facts: list[dict[str, Any]], moves: list[dict[str, Any]]) -> list[str]:
    """Return every acknowledged write that is not there, and aliases that lead nowhere."""
    database = Database(f"sqlite:///{home / 'salver.db'}")
    database.provision()
    blobs = BlobStore(home / "blobs" / "sha256")
    model = Catalog(database, SystemClock()).model(MODEL)
    digests = {record.version: record.digest for record in model.versions}
    found = [
        f"{fact['kind']} {fact}"
        for fact in facts
        if (fact["kind"] == "version" and digests.get(fact["version"]) != fact["digest"])
        or (fact["kind"] == "blob" and not blobs.verify(fact["sha256"]))
    ]
    found += [
        f"bytes of version {record.version}"
        for record in model.versions
        for file in record.manifest.files
        if not blobs.verify(file.sha256)
    ]
    if moves and model.aliases.get(ALIAS) not in allowed(moves):
        found.append(f"alias {model.aliases}, allowed are {allowed(moves)}")
    if model.aliases.get(ALIAS, 1) not in digests:
        found.append(f"alias {model.aliases} leads nowhere")
    database.close()
    return found


def allowed(moves: list[dict[str, Any]]) -> list[int | None]:
    """Return where the alias may point: the last acknowledged move, or one tried after it.

    What was tried may have been made and not acknowledged any more.
    """
    acknowledged = [i for i, fact in enumerate(moves) if fact["kind"] == "alias"]
    if not acknowledged:
        return [None, *[fact["version"] for fact in moves]]
    return [fact["version"] for fact in moves[acknowledged[-1] :]]


class Trial:
    """One home, one socket, two callers and many incarnations of control."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("run", "blobs"):
            (home / name).mkdir(parents=True, exist_ok=True)
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.pushes, self.moves = Diary(home / "pushes"), Diary(home / "moves")
        self.found: list[str] = []

    def run(self, kills: int, rng: random.Random) -> None:
        """Kill control so often, each time at a random moment after it has answered."""
        port = self.listening.getsockname()[1]
        pid = start_control(self.home, self.listening)
        until((self.home / "control.token").exists, "the token")
        callers = [forked(lambda: push_for_ever(self.home, port, self.pushes))]
        until(lambda: any(f["kind"] == "version" for f in self.pushes.read()), "a version")
        callers.append(forked(lambda: move_for_ever(self.home, port, self.moves, self.pushes)))
        try:
            for number in range(kills):
                if number % PUSH_EVERY == 0:
                    until(self.pushes.gets("version"), "an acknowledged push")
                else:
                    until(self.moves.gets("alias"), "an acknowledged alias move")
                time.sleep(rng.random() * LONGEST_LIFE_S)
                end(pid)
                self.check_alias(number)
                if number % 50 == 49:
                    self.check()
                pid = start_control(self.home, self.listening)
        finally:
            for process in (*callers, pid):
                end(process)
        self.check()

    def check_alias(self, number: int) -> None:
        """Look where the alias leads before the next move can hide that one was lost."""
        moves = self.moves.read()
        version, exists = stored_alias(self.home, MODEL, ALIAS)
        if moves and version not in allowed(moves):
            self.found.append(f"alias to {version} after kill {number}: {allowed(moves)}")
        if not exists:
            self.found.append(f"alias to {version}, which is missing, after kill {number}")

    def check(self) -> None:
        """Look at what is there while no control runs."""
        self.found += problems(self.home, self.pushes.read(), self.moves.read())


def main(home: Path, kills: int, seed: int) -> None:
    """Run the trial and print what it found."""
    trial = Trial(home)
    trial.run(kills, random.Random(seed))
    kinds = Counter(fact["kind"] for fact in (*trial.pushes.read(), *trial.moves.read()))
    print(json.dumps({"kills": kills, "acknowledged": kinds, "lost": trial.found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
