"""A real PostgreSQL of the tests' own, which can be killed and started again."""

import os
import pwd
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import sqlalchemy as sa

_START_S = 60.0
_UNPRIVILEGED = ("postgres", "nobody")


class Postgres:
    """A server on a loopback port of its own; a context manager. ``folder`` has a short path.

    It keeps its port and its data when it is killed and started again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._port = 0
        self._identity: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What Salver connects with."""
        return f"postgresql+pg8000://salver@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        """Make its files and start it."""
        self._folder.mkdir(mode=0o755)
        user = _user()
        if user is not None:
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        command = ["initdb", "-D", str(self._data), "-U", "salver", "-A", "trust", "--no-sync"]
        subprocess.run(
            [_binaries() / command[0], *command[1:]],
            check=True,
            capture_output=True,
            env=self._environment,
            cwd=self._folder,
            **self._identity,
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it and remove its files."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        subprocess.run(["rm", "-rf", str(self._folder)], check=True)

    def start(self) -> None:
        """Start, also after a kill, and wait until it answers."""
        deadline = time.monotonic() + _START_S
        ready = [str(_binaries() / "pg_isready"), "-h", "127.0.0.1", "-p", str(self._port)]
        self._spawn()
        while subprocess.run(ready, check=False, capture_output=True).returncode != 0:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.1)
            assert self._process is not None
            if self._process.poll() is not None:
                # What a kill left behind is in its way for a moment.
                self._spawn()

    def kill(self) -> None:
        """kill -9: its children notice that and end too."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the server and all of its children."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children()):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def empty(self) -> None:
        """Remove all tables."""
        engine = sa.create_engine(self.url)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        engine.dispose()

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self._folder)}

    def _spawn(self) -> None:
        self._process = subprocess.Popen(
            [
                _binaries() / "postgres", "-D", self._data, "-p", str(self._port),
                "-k", str(self._folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
            ],
            env=self._environment,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._identity,
        )  # fmt: skip


def _binaries() -> Path:
    """Return the folder of the newest PostgreSQL that Debian's packages installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    assert found, "PostgreSQL is missing; 'make test' installs it (scripts/debian-packages.sh)"
    return found[-1]


def _user() -> pwd.struct_passwd | None:
    """Return whom the server shall run as, since it refuses root; None when we are not root."""
    if os.getuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("there is no unprivileged user to run PostgreSQL as")
