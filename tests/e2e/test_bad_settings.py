"""A server whose processes cannot begin with the settings says so and ends."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.server import Server, run, wait_until

PORTS = ("--http-port", "0", "--grpc-port", "0", "--control-port", "0")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("engine: {warm_up: maybe}", "shared-0 cannot begin: engine.warm_up is run, check or off"),
        (
            "control: {webhook_hosts: example.com, webhook_ca: missing.pem}",
            "control cannot begin: control.webhook_ca: missing.pem is no PEM file",
        ),
        ("observe: {log_level: verbose}", "setting observe.log_level is one of debug, info, "),
        ("autoscale: {max_workers: 0}", "control cannot begin: setting autoscale.max_workers"),
        ("control: {database_url: 'mysql://host/x'}", "database 'mysql' is not supported"),
    ],
)
def test_settings_that_nothing_can_begin_with_end_the_start(
    home: Path, settings: str, told: str
) -> None:
    """Salver up ends with what is wrong, instead of trying again for ever."""
    home.mkdir(exist_ok=True)
    (home / "salver.yaml").write_text(settings)
    done = run("up", "--home", str(home), *PORTS)
    assert done.returncode == 1
    last = done.stderr.decode().splitlines()[-1]
    assert told in last
    assert last.endswith("[invalid_settings]")
    assert run("status", "--home", str(home)).returncode != 0
    done = run("up", "--home", str(home), "--detach", *PORTS)
    assert done.returncode == 1
    assert told in done.stderr.decode()


def test_keys_that_cannot_be_read_end_the_start(home: Path, tmp_path: Path) -> None:
    """So does a file of keys that is none."""
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: [")
    done = run("up", "--home", str(home), "--api-keys", str(keys), *PORTS)
    assert done.returncode == 1
    assert f"gateway-0 cannot begin: API key file {keys}" in done.stderr.decode()


def test_settings_that_go_bad_later_end_nothing(home: Path) -> None:
    """A process that is restarted with them is tried again until they are mended; others go on."""
    with Server(home) as server:
        pid = server.pid_of("shared-0")
        assert pid is not None
        (home / "salver.yaml").write_text("engine: {warm_up: maybe}")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "exit 78" in state_of(server, "shared-0"), "it has given up once")
        assert state_of(server, "gateway-0") == "running"
        assert server.salver("get", "workers").returncode == 0
        (home / "salver.yaml").write_text("")
        wait_until(lambda: state_of(server, "shared-0") == "running", "it runs again")


def state_of(server: Server, identity: str) -> str:
    """Return what the supervisor says of a process."""
    table = json.loads((server.home / "run" / "processes.json").read_bytes())
    return str(next(one["state"] for one in table["processes"] if one["identity"] == identity))
