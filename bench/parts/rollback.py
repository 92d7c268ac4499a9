"""Seconds from `salver rollback` to the last answer of the version that it leaves: Salver alone.

A caller asks all the time. The peers have no such command; where they can go back, they load.
"""

from __future__ import annotations

import threading
import time
from typing import Self

from bench.failure import BenchError
from bench.options import Options
from bench.results import Results, Rollback
from bench.servers.salver import Salver
from bench.wire_http import Connection, Target
from bench.workspace import Workspace

CYCLES = 10
OTHER_BYTES = b"\x32\x01\x32"
"""Appended to a model file: its description, field 6 of ``ModelProto``, is "2" then."""
MODEL = "tabular"
PATIENCE_S = 30.0


class TwoVersions(Salver):
    """Salver with two versions of the tabular model, of which the first serves."""

    def fill(self) -> None:
        """Push both and deploy one."""
        other = self.folder / "other.onnx"
        first = self.workspace.models / f"{MODEL}.onnx"
        other.write_bytes(first.read_bytes() + OTHER_BYTES)
        example = str(self.workspace.models / f"{MODEL}-example.json")
        for path in (first, other):
            self.command("push", str(path), "--name", MODEL, "--example", example)
        self.command("deploy", f"{MODEL}:1")


class Caller:
    """Asks again as soon as it is answered; ``last`` is when each version answered last."""

    def __init__(self, target: Target, body: bytes) -> None:
        self.last: dict[int, float] = {}
        self.failed = 0
        self._target = target
        self._body = body
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def wait_for(self, version: int, since: float) -> None:
        """Return when a version has answered after a moment."""
        end = time.perf_counter() + PATIENCE_S
        while self.last.get(version, 0.0) <= since:
            if time.perf_counter() > end:
                raise BenchError(f"version {version} does not answer")
            time.sleep(0.001)

    def _ask(self) -> None:
        connection = Connection(self._target, timeout_s=PATIENCE_S, answer_limit=1 << 16)
        while not self._over.is_set():
            answer = connection.post(self._body, {"Content-Type": "application/json"})
            known = [n for n in (1, 2) if b'"model_version":"%d"' % n in bytes(answer.body)]
            if answer.status != 200 or not known:
                self.failed += 1
            for version in known:
                self.last[version] = time.perf_counter()
        connection.close()


def run(options: Options, workspace: Workspace, results: Results) -> None:
    """Go to the second version and back, again and again."""
    del options
    server = TwoVersions(workspace, (MODEL,))
    server.provision()
    try:
        server.start()
        with Caller(server.tabular(), workspace.cases()[0].body) as caller:
            for _ in range(CYCLES):
                server.command("deploy", f"{MODEL}:2", "--endpoint", MODEL, "--force")
                caller.wait_for(2, time.perf_counter())
                begin = time.perf_counter()
                server.command("rollback", MODEL)
                returned = time.perf_counter()
                caller.wait_for(1, returned)
                figure = Rollback(caller.last[2] - begin, returned - begin)
                results.rollback.append(figure)
                print(f"rollback {figure.last_answer_s:.3f} s", flush=True)
            if caller.failed:
                raise BenchError(f"{caller.failed} requests failed meanwhile")
    finally:
        server.stop()
