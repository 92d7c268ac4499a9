"""A worker process and its control: what it reports, loads and lets go."""

import asyncio
import os
from pathlib import Path

import msgspec
import uvloop

from salver.core.errors import WireError
from salver.core.settings import EngineSettings
from salver.engine.client.handler import EngineClient
from salver.observe.meter import Meter
from salver.wire.connection import Connection
from salver.wire.messages import BatchPolicy, PlanPush, Snapshot, WorkerPlan
from salver.wire.transport import LinkOptions, connect, listen
from tests.engine.fleet import CLOCK, Callers, Fleet, Model, client_of, finish, fleet, until
from tests.wire.links import Inbox, hello, make_tls


def last(inbox: Inbox) -> Snapshot | None:
    """Return the newest snapshot."""
    snapshots = [message for message, _ in inbox.messages if isinstance(message, Snapshot)]
    return snapshots[-1] if snapshots else None


def states(inbox: Inbox) -> dict[str, str]:
    """Return the states that were reported last."""
    snapshot = last(inbox)
    return {} if snapshot is None else {v.variant: v.state for v in snapshot.variants}


def total(inbox: Inbox, name: str) -> float:
    """Return the sum of a counter over its labels."""
    snapshot = last(inbox)
    return sum(s.value for s in snapshot.counters if s.name == name) if snapshot else 0.0


async def hang_up(inbox: Inbox) -> None:
    """Close a link and wait until it is gone."""
    if inbox.connection is not None and not inbox.lost:
        inbox.connection.close()
        await inbox.until_lost()


def test_follows_pushed_plans_and_reports() -> None:
    """A worker loads what a plan adds, lets go of what it drops, and reports both with counts."""

    async def run(running: Fleet) -> None:
        inboxes: list[Inbox] = []

        def accept(connection: Connection) -> Inbox:
            inboxes.append(Inbox())
            return inboxes[-1].accept(connection)

        door = await listen(f"unix:{running.home}/run/control.sock", hello("control"), accept)

        def shared() -> Inbox | None:
            links = [i for i in inboxes if i.connection and not i.lost]
            named = [i for i in links if _identity(i) == "shared-0"]
            return named[-1] if named else None

        await until(lambda: (found := shared()) is not None and states(found) != {})
        inbox = shared()
        assert inbox is not None
        assert inbox.connection is not None
        await until(lambda: states(inbox) == {"affine:1": "ready", "bad:1": "failed"})
        async with client_of(running) as callers:
            await finish([callers.ask(1.0)])
            plan = running.write((Model(), Model("affine:2")), 2)
            inbox.connection.send(PlanPush(plan))
            await until(lambda: states(inbox) == {"affine:1": "ready", "affine:2": "ready"})
            plan = running.write((Model("affine:2"),), 3)
            inbox.connection.send(PlanPush(plan))
            await until(lambda: states(inbox) == {"affine:2": "ready"})
            snapshot = last(inbox)
            assert snapshot is not None
            assert snapshot.plan == 3
            assert snapshot.resident_bytes > 1_000_000
            assert total(inbox, "salver_model_loads_total") == 2
            assert total(inbox, "salver_model_load_failures_total") == 1
            assert total(inbox, "salver_batches_total") == 1
            await until(lambda: len(copies_of(running)) == 1)
        await door.close()
        for each in inboxes:
            await hang_up(each)

    environment = {"SALVER_CONTROL__SNAPSHOT_INTERVAL_S": "0.05"}
    with fleet(Model(), Model("bad:1", content=b"fail"), environment=environment) as running:
        uvloop.run(run(running))


def _identity(inbox: Inbox) -> str:
    connection = inbox.connection
    return connection.peer.identity if connection is not None and connection.peer else ""


def copies_of(running: Fleet) -> set[Path]:
    """Return the folders of versions that were copied for the first worker's processes."""
    found: set[Path] = set()
    # Processes remove folders meanwhile, which `Path.glob` does not bear.
    for folder, names, _ in os.walk(running.home / "run" / "models" / "shared-0"):
        if Path(folder).parent.name == "shared-0":
            found.update(Path(folder, name) for name in names)
    return found


def test_a_process_that_ends_late_leaves_its_successor_alone() -> None:
    """The copies of two processes of one worker lie apart, and the later one goes on serving."""

    async def run(running: Fleet) -> None:
        await until(lambda: len(copies_of(running)) == 1)
        # Under another name, so that it is not waited for, and ended with the rest.
        first = running.processes["first"] = running.processes.pop("shared-0")
        before = copies_of(running)
        running.start("shared-0")
        await until(lambda: len(copies_of(running)) == 2)
        (own,) = copies_of(running) - before
        first.terminate()
        await asyncio.to_thread(first.wait)
        async with client_of(running) as callers:
            await finish([callers.ask(1.0)])
            assert callers.all[0].answer == 4.0
        assert copies_of(running) == {own}
        assert (own / "model.txt").read_bytes() == b"affine"

    with fleet() as running:
        uvloop.run(run(running))


def test_copies_of_a_killed_process_are_removed_by_the_next() -> None:
    """After kill -9 one folder is left, that of the process that is there."""

    async def run(running: Fleet) -> None:
        await until(lambda: len(copies_of(running)) == 1)
        (old,) = copies_of(running)
        running.kill("shared-0")
        running.start("shared-0")
        await until(lambda: bool(copies_of(running) - {old}))
        assert not old.parent.exists()
        assert len(copies_of(running)) == 1

    with fleet() as running:
        uvloop.run(run(running))


def test_a_flipped_bit_is_refused_at_load() -> None:
    """A worker does not load a blob whose bytes have changed since it was pushed."""

    async def run(running: Fleet) -> None:
        inbox = Inbox()
        door = await listen(f"unix:{running.home}/run/control.sock", hello("control"), inbox.accept)
        for blob in (running.home / "blobs" / "sha256").glob("*/*"):
            blob.write_bytes(b"affinf")
        running.start("shared-0")
        await until(lambda: states(inbox) == {"affine:1": "failed"})
        snapshot = last(inbox)
        assert snapshot is not None
        assert [variant.code for variant in snapshot.variants] == ["digest_mismatch"]
        await door.close()
        await hang_up(inbox)

    running = Fleet((Model(),), 1, {})
    try:
        uvloop.run(run(running))
    finally:
        running.close()


def test_answers_over_tls(tmp_path: Path) -> None:
    """A worker on a TCP port with TLS and a token answers a client that has both.

    When it dies, the client knows which request was running, as without TLS.
    """
    tls = make_tls(tmp_path)
    token = tmp_path / "token"
    token.write_text("secret\n")
    alone = BatchPolicy(max_batch_size=1)
    running = Fleet((Model(runtime="very-slow", policy=alone),), 1, {})

    async def run() -> None:
        inbox = Inbox()
        port = await _free_port()
        address = f"tcp://127.0.0.1:{port}"
        flags = ["--address", address, "--token-file", str(token)]
        flags += ["--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key)]
        running.start("shared-0", [*flags, "--tls-authority", str(tls.authority)])
        async with asyncio.timeout(20):
            while inbox.connection is None:
                try:
                    greeting = hello("gateway", "secret")
                    await connect(address, greeting, inbox.accept, 1.0, LinkOptions(tls))
                except WireError:
                    await asyncio.sleep(0.05)
        await until(lambda: states(inbox) == {"affine:1": "ready"})
        await hang_up(inbox)
        await ask_over(LinkOptions(tls), address)

    async def ask_over(options: LinkOptions, address: str) -> None:
        client = EngineClient(hello("gateway", "secret"), EngineSettings(), CLOCK, Meter(), options)
        workers = (WorkerPlan("shared-0", "shared", address),)
        await client.start()
        client.apply(msgspec.structs.replace(running.plan, workers=workers))
        await until(lambda: client.is_ready("affine:1"))
        callers = Callers(client)
        asked = [callers.ask(float(value)) for value in range(4)]
        await finish(asked)
        assert [caller.answer for caller in asked] == [3.0 * value + 1 for value in range(4)]
        asked = [callers.ask(float(value)) for value in range(4)]
        pending = list(client._links["shared-0"].pending.values())
        await until(lambda: any(item.started for item in pending))
        running.kill("shared-0")
        await finish(asked)
        assert [item.started for item in pending] == [True, False, False, False]
        await client.stop()

    try:
        uvloop.run(run())
    finally:
        running.close()


async def _free_port() -> int:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def reach(socket: Path, inbox: Inbox) -> None:
    """Connect to a worker as soon as it listens, which is a moment after its socket is there."""
    async with asyncio.timeout(60):
        while True:
            try:
                await connect(f"unix:{socket}", hello("gateway"), inbox.accept, 5.0, LinkOptions())
            except WireError:
                await asyncio.sleep(0.01)
            else:
                return


def test_code_is_not_loaded_beside_others() -> None:
    """A shared worker refuses code, whatever the plan says, and goes on with the other models."""

    async def run(running: Fleet) -> None:
        inbox = Inbox()
        await reach(running.home / "run" / "worker-shared-0.sock", inbox)
        wanted = {"affine:1": "ready", "coded:1": "failed", "other:1": "failed"}
        try:
            await until(lambda: states(inbox) == wanted)
            snapshot = last(inbox)
            assert snapshot is not None
            errors = [one.error for one in snapshot.variants if one.state == "failed"]
            assert all("gets a worker of its own" in error for error in errors)
        finally:
            await hang_up(inbox)

    coded = [Model(name, trust_code=True) for name in ("coded:1", "other:1")]
    with fleet(Model(), *coded) as running:
        uvloop.run(run(running))
