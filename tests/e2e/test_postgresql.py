"""A whole server whose models, endpoints and rollouts are in a PostgreSQL, which may die."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import Server, wait_until, write_rows
from tests.e2e.test_code import write
from tests.models import onnx_identity
from tests.postgres import Postgres

AWAY = "the database does not answer"
WITNESS = """
import pathlib

class Model:
    def predict(self, inputs):
        pathlib.Path(PATH).touch()
        return {"y": inputs["x"]}
"""


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL that nobody else uses."""
    with Postgres(Path("/tmp") / f"salver-pg-{os.getpid()}") as running:
        yield running


@pytest.fixture
def server(home: Path, postgres: Postgres) -> Iterator[Server]:
    """Start a server on it."""
    home.mkdir()
    (home / "salver.yaml").write_text(f"control: {{database_url: '{postgres.url}'}}")
    with Server(home) as running:
        yield running


def two_versions(server: Server, folder: Path) -> None:
    """Push two versions of ``scaled``, of which the first is deployed."""
    server.push_scaled(folder, 2)
    server.push_scaled(folder, 3)
    server.ok("deploy", "scaled:1", "--endpoint", "scaled")


def begin(server: Server) -> None:
    """Begin a rollout, and give the new version half of the traffic."""
    server.ok("rollout", "start", "scaled", "--to", "2", "--strategy", "manual")
    half = ("rollout", "set-weight", "scaled", "50")
    wait_until(lambda: server.salver(*half).returncode == 0, "the new version is ready")


def weight(server: Server) -> object:
    """Return the weight of the new version in the rollout that runs."""
    return server.json("rollout", "status", "scaled")["weights"]["scaled:2"]


def counted(server: Server) -> float:
    """Return the requests that were answered, as monitoring sees them."""
    return server.metric("salver_requests_total", endpoint="scaled", code="ok") or 0.0


def goes_on(load: Load) -> None:
    """Wait until more requests are answered."""
    goal = load.answered + 100
    wait_until(lambda: load.answered >= goal, "answers")


def changes(folder: Path) -> list[tuple[str, ...]]:
    """Return commands that change something."""
    example = write_rows(folder / "rows.json", [[1.0]])
    model = str(onnx_identity("FP32", 2))
    code = write(folder / "code", WITNESS.replace("PATH", repr(str(folder / "examined"))))
    return [
        ("push", model, "--name", "late", "--example", str(example)),
        ("push", str(code), "--name", "seen", "--example", str(example), "--trust-code"),
        ("deploy", "scaled:2", "--endpoint", "scaled"),
        ("alias", "scaled@champion", "1"),
        ("rollout", "abort", "scaled"),
    ]


def refused(server: Server, *commands: tuple[str, ...]) -> None:
    """Ask for changes, each of which is refused with the cause."""
    for command in commands:
        done = server.salver(*command)
        told = done.stderr.decode()
        assert done.returncode == 1, (command, told)
        assert "[control_unavailable]" in told, (command, told)
        assert AWAY in told, (command, told)


def test_everything_is_kept_in_it(server: Server, tmp_path: Path) -> None:
    """Nothing is in SQLite, and a rollout goes on where it was when control is killed in it."""
    two_versions(server, tmp_path)
    assert not (server.home / "salver.db").exists()
    with Load(server.port, "scaled", connections=16) as load:
        begin(server)
        wait_until(lambda: load.factors[3.0] > 50, "traffic to the new version")
        before = counted(server)
        server.kill("control")
        wait_until(lambda: server.salver("status").returncode == 0, "control answers")
        assert weight(server) == 50
        assert counted(server) >= before > 0
        server.ok("rollout", "promote", "scaled")
        goal = load.factors[3.0] + 200
        wait_until(lambda: load.factors[3.0] > goal, "the new version answers")
    assert_unharmed(load)
    assert server.json("get", "endpoints")[0]["version"] == 2


def test_it_is_killed_and_comes_back(server: Server, postgres: Postgres, tmp_path: Path) -> None:
    """Serving goes on, changes are refused with the cause, and control goes on by itself.

    What cannot be stored is not examined. Also when control is killed while its database is away,
    and whatever else dies then.
    """
    two_versions(server, tmp_path)
    with Load(server.port, "scaled", connections=16) as load:
        begin(server)
        goes_on(load)
        before = counted(server)
        postgres.kill()
        refused(server, *changes(tmp_path))
        assert counted(server) >= before
        goes_on(load)
        server.kill("control")
        refused(server, *changes(tmp_path))
        goes_on(load)
        postgres.start()
        wait_until(lambda: server.salver("status").returncode == 0, "control answers")
        assert weight(server) == 50
        server.push(onnx_identity("FP32", 2), "late")
        wait_until(lambda: counted(server) >= load.answered - 200, "counts are complete", 60)
        postgres.kill()
        postgres.start()
        server.ok("rollout", "promote", "scaled")
        goal = load.factors[3.0] + 200
        wait_until(lambda: load.factors[3.0] > goal, "the new version answers")
    assert_unharmed(load)
    assert counted(server) >= before
    assert not (tmp_path / "examined").exists()


def test_it_is_away_when_everything_starts(server: Server, postgres: Postgres) -> None:
    """`salver up` starts, says what is missing, and is complete when the database is there."""
    server.ok("stop")
    postgres.kill()
    server.up()
    done = server.salver("status")
    assert done.returncode == 1
    assert AWAY in done.stderr.decode()
    postgres.start()
    wait_until(lambda: server.salver("status").returncode == 0, "control answers")


def test_it_is_stopped_and_says_nothing(server: Server, postgres: Postgres, tmp_path: Path) -> None:
    """A database that keeps its connections and does not answer is as good as away."""
    two_versions(server, tmp_path)
    with Load(server.port, "scaled", connections=16) as load:
        postgres.signal(signal.SIGSTOP)
        try:
            refused(server, ("alias", "scaled@champion", "1"))
            goes_on(load)
        finally:
            postgres.signal(signal.SIGCONT)
        wait_until(
            lambda: server.salver("alias", "scaled@champion", "1").returncode == 0, "changes"
        )
    assert_unharmed(load)
