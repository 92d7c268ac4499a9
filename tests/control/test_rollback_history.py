"""Going back is in the history of rollouts and in the audit log, with both versions."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from salver.cli.rollout_view import event_lines, status_lines
from salver.control.rollouts.journal import line_of, record_of
from salver.core.clock import ManualClock
from salver.core.errors import SalverError
from salver.core.names import ModelReference
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.settings import ControlSettings, Settings
from salver.registry.records import EndpointSpec
from salver.rollout.machine import Command, Rollout, command
from tests.control.parts import Control, control, push, variant

POLICY = check_policy(RolloutPolicy(strategy="manual"))
ROLLOUT = Rollout("e", 0, "m:1", "m:2", POLICY, "s", 0, "alice", step=0, weight=500)
BACK = {"from": "m:2", "to": "m:1"}


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Control]:
    """Give a control whose endpoint has the first of three versions."""
    parts = control(tmp_path, "one", ManualClock())
    push(parts, "m", 3)
    deploy(parts, 1)
    # Nobody serves here, so that it is not waited for long.
    parts.reconciler.settings = Settings(control=ControlSettings(deploy_timeout_s=0.01))
    yield parts
    parts.thread.stop()


def deploy(parts: Control, version: int) -> None:
    """Want a version in place of the one that answers."""
    record = parts.catalog.resolve(ModelReference("m", version))
    serving = [f"e m:{number}" for number in (1, 2, 3)]
    parts.placing.put(EndpointSpec("e", "m", version), record, serving, force=True)


def promote(parts: Control) -> None:
    """Roll the second version out and promote it."""
    begun = parts.begin(ROLLOUT)
    after, line = command(begun, Command("promote", "alice", "good"))
    assert line is not None
    asyncio.run(parts.runner.commit(after, line))


def go_back(parts: Control, reason: str = "wrong") -> None:
    """Go back; what was decided is written down, although nobody serves."""
    with pytest.raises(SalverError):
        asyncio.run(parts.rollouts.rollback("e", "bob", reason, force=True))


def status(parts: Control) -> dict[str, Any]:
    """Return the endpoint's newest rollout."""
    return asyncio.run(parts.rollouts.status("e"))


def history(parts: Control) -> list[dict[str, Any]]:
    """Return the newest events first."""
    return asyncio.run(parts.rollouts.history("e", 100))


def test_a_promotion_that_is_undone_is_in_its_history(parts: Control) -> None:
    """With both versions, who, when and why; the rollout has ended still, and says it too."""
    promote(parts)
    assert status(parts)["taken_back"] is None
    go_back(parts)
    newest = history(parts)[0]
    assert (newest["event"], newest["actor"], newest["state"]) == ("go_back", "bob", "promoted")
    assert (newest["evidence"], newest["weight"]) == (BACK, 0.0)
    assert newest["reason"] == "from m:2 to m:1: wrong"
    found = status(parts)
    assert (found["state"], found["weights"]) == ("promoted", {"m:1": 100.0, "m:2": 0.0})
    assert found["taken_back"] == {
        **BACK, "actor": "bob", "reason": "wrong", "unix_ms": newest["unix_ms"],
    }  # fmt: skip
    assert [event["event"] for event in event_lines(history(parts))] == [
        "go_back", "promote", "start",
    ]  # fmt: skip
    assert (
        "  taken back since: from m:2 to m:1, by bob at 2023-11-14 22:13:21: wrong"
        in status_lines(found)
    )
    assert parts.store.active() == []


def test_a_deploy_that_is_undone_is_no_promotion_taken_back(parts: Control) -> None:
    """It is a line of the history that there is; what was promoted serves again."""
    promote(parts)
    deploy(parts, 3)
    go_back(parts)
    assert history(parts)[0]["evidence"] == {"from": "m:3", "to": "m:2"}
    found = status(parts)
    assert (found["taken_back"], found["weights"]) == (None, {"m:1": 0.0, "m:2": 100.0})


def test_the_next_rollout_has_a_history_of_its_own(parts: Control) -> None:
    """What is added after the end of one keeps no other from beginning, or from going on."""
    promote(parts)
    go_back(parts)
    second = parts.begin(ROLLOUT)
    after, line = command(second, Command("abort", "alice"))
    assert line is not None
    parts.store.change(record_of(after), line_of(line))
    assert [(line["rollout"], line["event"]) for line in history(parts)] == [
        (2, "roll_back"), (2, "start"), (1, "go_back"), (1, "promote"), (1, "start"),
    ]  # fmt: skip
    assert status(parts)["taken_back"] is None


@pytest.mark.parametrize("way", ["promotion", "deploy", "rollout"])
def test_the_audit_log_names_both_versions(parts: Control, way: str) -> None:
    """After a promotion, after a deploy without any history, and in the midst of a rollout."""
    if way == "promotion":
        promote(parts)
    elif way == "deploy":
        deploy(parts, 2)
    else:
        parts.begin(ROLLOUT)
        parts.serve(variant("m:1"), variant("m:2", "canary", 500), number=3)
    go_back(parts, "")
    (event,) = parts.state.events(1)
    assert (event.actor, event.action, event.subject) == ("bob", "rollback", "e")
    assert event.details == {"reason": "", **BACK}
    assert bool(history(parts)) == (way != "deploy")


def test_a_line_that_cannot_be_written_keeps_the_endpoint_as_it_is(parts: Control) -> None:
    """Going back and its history are one transaction."""
    promote(parts)
    before = parts.state.endpoint("e")
    refuse = "BEFORE INSERT ON rollout_events BEGIN SELECT RAISE(ABORT, 'refused'); END"
    with parts.database.write() as connection:
        connection.execute(sa.text(f"CREATE TRIGGER full {refuse}"))
    with pytest.raises(sa.exc.IntegrityError):
        asyncio.run(parts.rollouts.rollback("e", "bob", "wrong", force=True))
    assert parts.state.endpoint("e") == before
    assert set(parts.store.previous()) == {"e"}
    assert status(parts)["taken_back"] is None


def test_rollouts_of_before_are_read(parts: Control) -> None:
    """What an earlier Salver stored of a rollout says nothing of having been taken back."""
    promote(parts)
    stored = msgspec.json.decode(parts.store.newest("e").body)
    del stored["taken_back"]
    with parts.database.write() as connection:
        connection.execute(
            sa.text("UPDATE rollouts SET body = :body"),
            {"body": msgspec.json.encode(stored).decode()},
        )
    assert status(parts)["taken_back"] is None
    go_back(parts)
    assert history(parts)[0]["evidence"] == BACK
