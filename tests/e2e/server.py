"""A whole server, started and driven through the command line, as a person does it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from salver.client.sync import Client

SALVER = Path(sys.executable).with_name("salver")
_WAIT_S = 60.0


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command line and return what happened."""
    return subprocess.run(
        [str(SALVER), *arguments], input=stdin, capture_output=True, check=False, timeout=180
    )


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = _WAIT_S) -> None:
    """Wait until something holds; fails naming it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Server:
    """A server in a home folder of its own; a context manager."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self._options = options

    def __enter__(self) -> Self:
        """Start."""
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; leave nothing running even when a test failed in between."""
        pid = self.supervisor_pid()
        self.salver("stop")
        if pid is not None and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)

    def up(self) -> None:
        """Start in the background."""
        done = self.salver(
            "up", "--http-port", "0", "--control-port", "0", "--detach", *self._options
        )
        assert done.returncode == 0, done.stderr.decode()

    def salver(
        self, command: str, *arguments: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command against this server."""
        return run(command, *arguments, "--home", str(self.home), stdin=stdin)

    def ok(self, command: str, *arguments: str, stdin: bytes = b"") -> str:
        """Run one command, which must succeed; returns what it printed."""
        done = self.salver(command, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def json(self, command: str, *arguments: str) -> Any:
        """Run one command and return its JSON."""
        return json.loads(self.ok(command, *arguments, "-o", "json"))

    def client(self) -> Client:
        """Return a client of this server."""
        return Client(home=self.home)

    def push(self, path: Path, name: str, *options: str) -> None:
        """Push a model."""
        self.ok("push", str(path), "--name", name, *options)

    @property
    def port(self) -> int:
        """The data port."""
        return int(str(self.state()["http_url"]).rpartition(":")[2])

    def state(self) -> dict[str, Any]:
        """Return what the supervisor wrote down."""
        document: dict[str, Any] = json.loads((self.home / "run" / "supervisor.json").read_text())
        return document

    def supervisor_pid(self) -> int | None:
        """Return the supervisor's pid, or None when there is none."""
        try:
            return int(self.state()["pid"])
        except (OSError, ValueError, KeyError):
            return None

    def pid_of(self, identity: str) -> int | None:
        """Return the pid of one process, or None while it is restarting."""
        table = json.loads((self.home / "run" / "processes.json").read_text())["processes"]
        for entry in table:
            if entry["identity"] == identity:
                pid: int | None = entry["pid"]
                return pid
        return None

    def kill(self, identity: str) -> None:
        """kill -9 one process and wait until the supervisor runs another."""
        pid = self.pid_of(identity)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: self.pid_of(identity) not in (None, pid), f"{identity} restarted", timeout_s=30
        )


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSON and return the path."""
    path.write_text(json.dumps(rows))
    return path
