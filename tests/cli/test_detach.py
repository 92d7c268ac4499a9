"""When `salver up --detach` says that a server is up."""

import json
import os
from pathlib import Path

from salver.cli.detach import _late, _state
from salver.core.presence import announce
from tests.e2e.server import run


def says(home: Path, name: str, pid: int) -> int:
    """Let a process that lives write down that it answers."""
    return announce(home / "run" / f"{name}.json", {"pid": pid})


def shows(home: Path, *rows: dict[str, object]) -> None:
    """Let the supervisor write down what runs."""
    (home / "run").mkdir(exist_ok=True)
    (home / "run" / "processes.json").write_text(json.dumps({"processes": rows}))


def row(identity: str, role: str, pid: int | None) -> dict[str, object]:
    """Return a process as the supervisor tells of it."""
    return {"identity": identity, "role": role, "pid": pid}


def test_each_gateway_and_control_are_waited_for(tmp_path: Path) -> None:
    """Until each has said where it answers; what an earlier process said does not count."""
    assert _late(tmp_path) == ["control"]
    rows = [
        row("gateway-0", "gateway", 11), row("gateway-1", "gateway", 12),
        row("shared-0", "worker", 13), row("control", "control", 14),
    ]  # fmt: skip
    shows(tmp_path, *rows)
    says(tmp_path, "gateway-1", 12)
    says(tmp_path, "control", 4)
    assert _late(tmp_path) == ["gateway-0", "control"]
    says(tmp_path, "control", 14)
    assert _late(tmp_path) == ["gateway-0"]
    says(tmp_path, "gateway-0", 11)
    assert _late(tmp_path) == []
    shows(tmp_path, *rows[:3], row("control", "control", None))
    assert _late(tmp_path) == ["control"]


def test_what_a_killed_server_left_is_no_sign_of_the_next_one(tmp_path: Path) -> None:
    """In a container each start gives the same pids, so that these tell nothing."""
    shows(tmp_path, row("gateway-0", "gateway", 11), row("control", "control", 14))
    for name, pid in (("supervisor", 7), ("gateway-0", 11), ("control", 14)):
        os.close(says(tmp_path, name, pid))
    assert _state(tmp_path, 7) is None
    assert _late(tmp_path) == ["gateway-0", "control"]
    says(tmp_path, "supervisor", 7)
    assert _state(tmp_path, 7) is not None


def test_who_has_not_begun_is_said(tmp_path: Path) -> None:
    """A server whose database is away serves all the same, and its start says what is missing."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "salver.yaml").write_text("control: {database_url: 'postgresql://127.0.0.1:9/x'}")
    ports = ("--http-port", "0", "--grpc-port", "0", "--control-port", "0")
    done = run("up", "--home", str(home), "--detach", *ports)
    try:
        assert done.returncode == 0, done.stderr
        assert b"data port" in done.stdout
        assert b"not begun yet: control; see 'salver logs control'" in done.stderr
    finally:
        run("stop", "--home", str(home))
