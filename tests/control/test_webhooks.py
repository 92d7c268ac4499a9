"""Rollouts, what is written down for webhooks, and what their answers do, on real parts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from salver.control.rollouts.commands import Start
from salver.control.rollouts.facts import Facts
from salver.control.webhooks.opening import open_sender
from salver.control.webhooks.signing import signature
from salver.core.clock import ManualClock
from salver.core.errors import InvalidRequest, InvalidSettings, SalverError, WebhookNotAllowed
from salver.core.rollouts import MANUAL, RolloutPolicy
from salver.core.settings import ControlSettings, Settings
from salver.core.webhooks import EVENTS, Webhook
from salver.registry.records import EndpointSpec
from salver.rollout.machine import Command
from tests.control.parts import Control, control, push, variant
from tests.control.receiver import Receiver, Reply, Told


class Desk:
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.reply = Reply()

    def __call__(self, _number: int, _told: Told) -> Reply:
        """Answer."""
        return self.reply


@pytest.fixture
def desk() -> Desk:
    """Give who answers."""
    return Desk()


@pytest.fixture
def receiver(desk: Desk) -> Iterator[Receiver]:
    """Give the server of one webhook."""
    with Receiver(desk) as receiver:
        yield receiver


def settings(receiver: Receiver) -> ControlSettings:
    """Return settings that allow one host."""
    return ControlSettings(webhook_hosts=f"127.0.0.1:{receiver.port}")


def opened(folder: Path, receiver: Receiver) -> Control:
    """Return a control that calls the receiver."""
    clock, own = ManualClock(), settings(receiver)
    send = open_sender(folder, own, clock)
    return control(folder, "one", clock, send, Settings(control=own))


@pytest.fixture
def parts(tmp_path: Path, receiver: Receiver) -> Iterator[Control]:
    """Give a control whose endpoint ``e`` serves the first of three versions and has a webhook."""
    parts = opened(tmp_path, receiver)
    push(parts, "m", 3)
    hooks = (Webhook("desk", f"http://127.0.0.1:{receiver.port}/", EVENTS, attempts=2),)
    spec = EndpointSpec("e", "m", 1, webhooks=hooks)
    parts.state.put_endpoint(spec)
    parts.serve(variant("m:1"), number=1)
    yield parts
    parts.thread.stop()


def begin(parts: Control, *hooks: Webhook) -> None:
    """Begin a rollout by hand, as far as its first step."""
    policy = RolloutPolicy(strategy=MANUAL, webhooks=hooks)
    asyncio.run(parts.rollouts.start(Start("e", "2", policy, "alice")))
    (record,) = parts.store.active()
    ready = msgspec.json.decode(record.body) | {"step": 0}
    parts.store.save(msgspec.structs.replace(record, body=msgspec.json.encode(ready)), {})
    parts.runner.current.clear()


def say(parts: Control, kind: str, **more: Any) -> dict[str, Any]:
    """Say something about the rollout."""
    return asyncio.run(parts.rollouts.say("e", Command(kind, "bob", **more)))


def deliver(parts: Control) -> None:
    """Tell what is to be told, and look at rollouts once."""

    async def run() -> None:
        await parts.deliverer.look()
        await asyncio.gather(*parts.deliverer._open.values())
        await parts.runner._tick()

    asyncio.run(run())


def rollout(parts: Control) -> dict[str, Any]:
    """Return how the rollout is."""
    return asyncio.run(parts.rollouts.status("e"))


def test_a_step_waits_for_the_answer(parts: Control, receiver: Receiver) -> None:
    """It is asked about with the endpoint's own webhook, and taken when that says yes."""
    begin(parts)
    asked = say(parts, "weight", weight=2000)
    assert (asked["awaits"], asked["weights"]) == ("webhooks", {"m:1": 100.0, "m:2": 0.0})
    assert asked["next"] == "waits for the answers of webhooks: desk"
    deliver(parts)
    known = rollout(parts)
    assert (known["weights"]["m:2"], known["awaits"]) == (20.0, "")
    (told,) = receiver.told
    facts = told.facts
    assert facts["id"] == told.headers["x-salver-delivery"]
    assert (facts["event"], facts["weight"], facts["to"]) == ("before_step", 20.0, "m:2")
    assert facts["digest"] == parts.catalog.model("m").versions[1].digest
    (line,) = known["webhooks"]
    assert (line["webhook"], line["state"], line["status"]) == ("desk", "delivered", 200)


def test_a_no_pauses_with_its_reason(parts: Control, desk: Desk, receiver: Receiver) -> None:
    """Its words are in the history; the weight stays; resuming and asking anew may do."""
    begin(parts)
    desk.reply = Reply(403, b"no change\r\non Fridays")
    say(parts, "weight", weight=2000)
    deliver(parts)
    known = rollout(parts)
    assert (known["state"], known["weights"]["m:2"]) == ("paused", 0.0)
    assert known["reason"] == "webhook desk said no: 403: no change on Fridays"
    desk.reply = Reply()
    say(parts, "resume")
    say(parts, "weight", weight=2000)
    deliver(parts)
    assert rollout(parts)["weights"]["m:2"] == 20.0
    identities = [told.headers["x-salver-delivery"] for told in receiver.told]
    assert len(set(identities)) == len(identities)


def test_nobody_there_pauses_when_the_budget_is_over(parts: Control, desk: Desk) -> None:
    """A rollout does not go on because nobody could be asked."""
    begin(parts)
    desk.reply = Reply(503)
    say(parts, "weight", weight=2000)
    deliver(parts)
    assert rollout(parts)["state"] == "running"
    parts.deliverer._clock.advance(10.0)  # type: ignore[attr-defined]
    deliver(parts)
    known = rollout(parts)
    assert known["state"] == "paused"
    assert "could not be asked: 503; given up after 2 of 2 attempts" in known["reason"]


def test_going_back_waits_for_nobody(parts: Control, desk: Desk) -> None:
    """It is rolled back at once; what was asked is asked no more; the history says how it went."""
    begin(parts)
    desk.reply = Reply(500, b"broken")
    say(parts, "weight", weight=2000)
    aborted = say(parts, "abort", reason="wrong model")
    assert aborted["state"] == "rolled_back"
    for _ in range(2):
        deliver(parts)
        parts.deliverer._clock.advance(10.0)  # type: ignore[attr-defined]
    history = asyncio.run(parts.rollouts.history("e", 100))
    told = {
        line["evidence"]["delivery"]["event"]: line
        for line in history
        if "delivery" in line["evidence"]
    }
    assert told["before_step"]["state"] == "withdrawn"
    assert told["rolled_back"]["state"] == "undelivered"
    assert told["rolled_back"]["actor"] == "webhook desk"
    assert "500: broken" in told["rolled_back"]["reason"]
    assert [line["event"] for line in history if line["event"] != "webhook"] == [
        "roll_back", "ask", "start",
    ]  # fmt: skip
    assert rollout(parts)["state"] == "rolled_back"


@pytest.mark.parametrize("kind", ["promote", "weight"])
def test_what_is_frozen_stays_though_a_webhook_says_yes(
    parts: Control, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A freeze, and a pause, withdraw the question also where the rollout was paused before."""
    monkeypatch.setattr(parts.runner, "facts", lambda _: Facts(True, True, ""))
    begin(parts)
    say(parts, "pause")
    say(parts, kind, weight=2000)
    assert say(parts, "pause")["awaits"] == ""
    say(parts, kind, weight=2000)
    asyncio.run(parts.rollouts.freeze("e", "outage", "carol"))
    deliver(parts)
    known = rollout(parts)
    assert (known["state"], known["awaits"], known["weights"]["m:2"]) == ("paused", "", 0.0)
    assert "frozen: outage" in known["reason"]
    spec = parts.state.endpoint("e")
    assert spec is not None
    assert spec.version == 1


def test_a_yes_does_not_overtake_a_freeze(parts: Control) -> None:
    """A freeze that did not get so far as to pause the rollout holds at the next look."""
    begin(parts)
    say(parts, "weight", weight=2000)
    parts.store.freeze("e", "outage", "carol")
    deliver(parts)
    known = rollout(parts)
    assert (known["state"], known["weights"]["m:2"]) == ("paused", 0.0)
    assert "frozen by carol: outage" in known["reason"]


def test_what_a_load_says_is_stored_whatever_it_is(
    parts: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every database stores a NUL, and a library's error may quote one out of a file."""
    monkeypatch.setattr(parts.runner, "facts", lambda _: Facts(False, True, "bad \0 byte"))
    begin(parts)
    deliver(parts)
    known = rollout(parts)
    assert (known["state"], "bad \N{REPLACEMENT CHARACTER} byte" in known["reason"]) == (
        "rolled_back", True,
    )  # fmt: skip
    assert "\0" not in parts.store.mark_of("m", 2)


def test_what_is_told_and_what_happens_are_one_write(parts: Control) -> None:
    """When it cannot be written down that webhooks are told, nothing happens at all."""
    begin(parts)
    with parts.database.write() as connection:
        connection.execute(
            sa.text(
                "CREATE TRIGGER full BEFORE INSERT ON webhook_deliveries "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        )
    with pytest.raises(sa.exc.IntegrityError):
        say(parts, "abort")
    assert rollout(parts)["state"] == "running"
    assert len(parts.store.history("e", 100)) == 1


def test_another_control_goes_on_with_what_was_asked(
    parts: Control, tmp_path: Path, receiver: Receiver
) -> None:
    """The rollout, its question and the delivery's id outlive the process."""
    begin(parts)
    say(parts, "weight", weight=2000)
    (before,) = parts.deliveries.waiting()
    again = opened(tmp_path, receiver)
    again.serve(variant("m:1"), number=1)
    deliver(again)
    assert rollout(again)["weights"]["m:2"] == 20.0
    assert [told.headers["x-salver-delivery"] for told in receiver.told] == [before.id]
    assert receiver.told[0].body == before.body
    again.thread.stop()


def test_going_back_after_the_end_is_told_too(parts: Control, receiver: Receiver) -> None:
    """`salver rollback` is of no rollout, and the endpoint's webhooks hear of it."""
    spec = parts.state.endpoint("e")
    assert spec is not None
    parts.store.put(msgspec.structs.replace(spec, version=2, approvals=1), spec, 60.0)

    async def back() -> None:
        with pytest.raises(SalverError):  # nobody serves here, so that it is not waited for long
            async with asyncio.timeout(5):
                await parts.rollouts.rollback("e", "bob", "wrong", force=False)

    parts.reconciler.settings = Settings(control=ControlSettings(deploy_timeout_s=0.01))
    asyncio.run(back())
    restored = parts.state.endpoint("e")
    assert restored is not None
    assert (restored.version, restored.approvals) == (1, 1)
    deliver(parts)
    facts = receiver.told[0].facts
    assert (facts["event"], facts["rollout"]) == ("rolled_back", 0)
    assert (facts["from"], facts["to"], facts["reason"]) == ("m:2", "m:1", "wrong")


def test_hosts_that_are_not_allowed_are_refused_at_once(parts: Control) -> None:
    """By a rollout and by a deploy; so is a webhook that has the name of the endpoint's own."""
    other = Webhook("other", "https://evil.example/", EVENTS)
    with pytest.raises(WebhookNotAllowed, match=r"control\.webhook_hosts"):
        begin(parts, other)
    with pytest.raises(InvalidRequest, match="two webhooks"):
        begin(parts, msgspec.structs.replace(other, name="desk"))
    assert parts.store.active() == []
    deployer = parts.rollouts._deployer
    for spec in (
        EndpointSpec("e", "", webhooks=(other,)),
        EndpointSpec("e", "", rollout=RolloutPolicy(webhooks=(other,))),
    ):
        with pytest.raises(WebhookNotAllowed):
            asyncio.run(deployer.put(spec, "m:2"))


def test_a_deploy_sees_the_webhooks_that_it_keeps(parts: Control, receiver: Receiver) -> None:
    """A policy whose rollouts could not begin is refused before it is taken."""
    same = Webhook("desk", f"http://127.0.0.1:{receiver.port}/", EVENTS)
    deployer = parts.rollouts._deployer
    for name, refused in (("desk", True), ("other", False)):
        policy = RolloutPolicy(webhooks=(msgspec.structs.replace(same, name=name),))
        spec = EndpointSpec("e", "", rollout=policy, webhooks=None)
        if refused:
            with pytest.raises(InvalidRequest, match="two webhooks"):
                asyncio.run(deployer.put(spec, "m:1"))
        else:
            assert len(asyncio.run(deployer.put(spec, "m:1")).webhooks or ()) == 1


def test_a_host_that_was_taken_off_the_list_is_not_called(
    parts: Control, tmp_path: Path, receiver: Receiver
) -> None:
    """What is allowed is asked at the attempt, not only when the webhook was declared."""
    begin(parts)
    say(parts, "weight", weight=2000)
    for hosts in ("", "desk.example"):
        send = open_sender(tmp_path, ControlSettings(webhook_hosts=hosts), ManualClock())
        (item,) = parts.deliveries.waiting()

        async def attempt(send: Any = send, item: Any = item) -> Any:
            return await send(item)

        assert "control.webhook_hosts" in asyncio.run(attempt()).reason
    assert receiver.told == []


def test_the_secret_is_in_its_file_and_nowhere_else(
    parts: Control, tmp_path: Path, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither the database nor what is logged or sent has it, and others may not read the file."""
    begin(parts)
    say(parts, "weight", weight=2000)
    deliver(parts)
    file = tmp_path / "webhook.key"
    secret = file.read_bytes()
    assert len(secret) >= 32
    assert file.stat().st_mode & 0o077 == 0
    assert secret not in (tmp_path / "salver.db").read_bytes()
    assert secret.decode() not in "".join(capfd.readouterr())
    assert secret not in receiver.told[0].body
    assert secret.decode() not in str(receiver.told[0].headers)


def test_a_secret_is_a_line(parts: Control, tmp_path: Path, receiver: Receiver) -> None:
    """Spaces within one are part of it; each line signs."""
    lines = (b"correct horse battery", b"staple")
    (tmp_path / "webhook.key").write_bytes(b"\n%s \r\n\n%s\n" % lines)
    begin(parts)
    say(parts, "weight", weight=2000)
    (item,) = parts.deliveries.waiting()
    send = open_sender(tmp_path, settings(receiver), ManualClock())

    async def attempt() -> None:
        await send(item)

    asyncio.run(attempt())
    header = receiver.told[0].headers["x-salver-signature"]
    time_s = int(header.partition(",")[0].removeprefix("t="))
    assert header == signature(lines, time_s, item.body)


def test_settings_of_no_use_are_told_at_the_start(tmp_path: Path) -> None:
    """A wrong list, a file that is none, an empty secret: control says so and does not start."""
    clock = ManualClock()
    for own in (
        ControlSettings(webhook_hosts="https://x"),
        ControlSettings(webhook_networks="x"),
        ControlSettings(webhook_hosts="x.example", webhook_ca=str(tmp_path / "none")),
    ):
        with pytest.raises(InvalidSettings, match=r"control\.webhook"):
            open_sender(tmp_path, own, clock)
    (tmp_path / "webhook.key").write_text("\n")
    with pytest.raises(InvalidSettings, match=r"webhook\.key"):
        open_sender(tmp_path, ControlSettings(), clock)
