"""Fixtures that several rooms' tests share."""

import os
import pwd
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_START_S = 60.0
_UNPRIVILEGED = ("postgres", "nobody")


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


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real PostgreSQL on a loopback port of its own and give its URL."""
    folder = Path("/tmp") / f"salver-postgres-{os.getpid()}"
    folder.mkdir(mode=0o755)
    user = _user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    identity: dict[str, Any] = {}
    if user is not None:
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)}
    data = folder / "data"
    subprocess.run(
        [_binaries() / "initdb", "-D", data, "-U", "salver", "-A", "trust", "--no-sync"],
        check=True,
        capture_output=True,
        env=environment,
        cwd=folder,
        **identity,
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            _binaries() / "postgres", "-D", data, "-p", str(port), "-k", str(folder),
            "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
        ],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **identity,
    )  # fmt: skip
    try:
        _wait(port, server)
        yield f"postgresql+pg8000://salver@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def _wait(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    ready = [str(_binaries() / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False, capture_output=True).returncode != 0:
        assert server.poll() is None, "PostgreSQL stopped while starting"
        assert time.monotonic() < deadline, "PostgreSQL did not start"
        time.sleep(0.1)
