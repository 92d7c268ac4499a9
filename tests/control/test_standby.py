"""Two controls on one database: the second does not act."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from salver.core.errors import SalverError, Standby
from tests.e2e.server import Server, wait_until


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Give two servers whose controls share one database, and one store of models.

    Without the models the second, once in charge, would find that the canary cannot be loaded.
    """
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    homes = []
    for name in ("first", "second"):
        home = tmp_path / name
        home.mkdir()
        (home / "salver.yaml").write_text(f"control: {{database_url: '{url}'}}\n")
        (home / "blobs").symlink_to(blobs)
        homes.append(home)
    with Server(homes[0]) as first:
        first.push_scaled(tmp_path, 2)
        first.push_scaled(tmp_path, 3)
        first.ok("deploy", "scaled:1", "--endpoint", "scaled")
        with Server(homes[1]) as second:
            yield first, second


def test_a_second_control_waits_until_the_first_is_gone(pair: tuple[Server, Server]) -> None:
    """It refuses changes, drives no rollout, and takes over when the first has stood still."""
    first, second = pair
    with second.client() as client:
        changes: list[Callable[[], object]] = [
            lambda: client.start_rollout("scaled", 2),
            lambda: client.deploy("scaled:2", endpoint="scaled", timeout_s=5),
            lambda: client.freeze("scaled"),
        ]
        for change in changes:
            with pytest.raises(SalverError) as refusal:
                change()
            assert refusal.value.code in (Standby.code, "not_ready"), refusal.value.message
    first.ok("rollout", "start", "scaled", "--to", "2", "--min-requests", "1000000")
    with first.client() as client:
        wait_until(lambda: client.rollout("scaled")["step"] == 1, "the first step")
        events = len(client.rollout_history("scaled"))
    assert events == 2
    pid = first.supervisor_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    def acts() -> bool:
        try:
            with second.client() as client:
                client.freeze("scaled", "drill")
        except Standby:
            return False
        return True

    wait_until(acts, "the second is in charge", 60)
    with second.client() as client:
        history = client.rollout_history("scaled")
    assert [event["event"] for event in reversed(history)] == ["start", "step", "pause"]
