"""Doors and how they are opened: Unix sockets, TCP with TLS and a token."""

import asyncio
import socket
from pathlib import Path

import pytest
import uvloop

from salver.core.errors import InvalidSettings, WireError
from salver.wire.connection import Connection
from salver.wire.messages import Cancel
from salver.wire.transport import LinkOptions, connect, listen
from tests.wire.links import Inbox, hello, make_tls, pair

ANYWHERE = "tcp://127.0.0.1:0"


def test_tls_with_token(tmp_path: Path) -> None:
    """With certificates of one authority and the same token, messages travel both ways."""
    options = LinkOptions(make_tls(tmp_path))

    async def run() -> None:
        server, client = hello("worker", "secret"), hello("gateway", "secret")
        async with pair(ANYWHERE, options, server, client) as (there, here, connection):
            connection.send(Cancel(1), [bytes(3_000_000)])
            await there.until_messages(1)
            assert there.messages == [(Cancel(1), bytes(3_000_000))]
            assert there.connection is not None
            there.connection.send(Cancel(2))
            await here.until_messages(1)

    uvloop.run(run())


@pytest.mark.parametrize("encrypted", [True, False])
def test_the_kernel_looks_after_idle_links(tmp_path: Path, *, encrypted: bool) -> None:
    """Both ends find out within a minute that the other machine is gone, though nobody sends."""
    options = LinkOptions(make_tls(tmp_path) if encrypted else None)

    async def run() -> None:
        greeting = hello("worker", "secret")
        async with pair(ANYWHERE, options, greeting, greeting) as (there, _, connection):
            for end in (there.connection, connection):
                assert end is not None
                assert end._transport is not None
                raw = end._transport.get_extra_info("socket")
                assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                idle_s, pause_s, count = (raw.getsockopt(socket.IPPROTO_TCP, o) for o in names)
                assert idle_s + pause_s * count <= 60

    uvloop.run(run())


def test_tls_with_a_wrong_token(tmp_path: Path) -> None:
    """A good certificate does not make up for a wrong token."""
    options = LinkOptions(make_tls(tmp_path))

    async def run() -> None:
        async with pair(ANYWHERE, options, hello("worker", "secret"), hello("gateway", "guess")):
            pytest.fail("the link must not open")

    with pytest.raises(WireError):
        uvloop.run(run())


def test_certificates_of_strangers_are_refused(tmp_path: Path) -> None:
    """A peer whose certificate another authority signed does not get in."""
    (tmp_path / "other").mkdir()
    ours, theirs = make_tls(tmp_path), make_tls(tmp_path / "other")
    greeting = hello("worker", "secret")

    async def run() -> None:
        async with pair(
            ANYWHERE, LinkOptions(ours), greeting, greeting, client_options=LinkOptions(theirs)
        ):
            pytest.fail("the link must not open")

    with pytest.raises(WireError):
        uvloop.run(run())


def test_plain_tcp_to_a_tls_door(tmp_path: Path) -> None:
    """Without TLS nothing is understood."""
    greeting = hello("worker", "secret")

    async def run() -> None:
        options = LinkOptions(make_tls(tmp_path))
        async with pair(ANYWHERE, options, greeting, greeting, client_options=LinkOptions()):
            pytest.fail("the link must not open")

    with pytest.raises(WireError):
        uvloop.run(run())


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:0", "tcp://192.0.2.1:1", "tcp://[::]:0"])
def test_tls_is_a_must_beyond_this_machine(address: str) -> None:
    """Neither listening nor connecting works without TLS where others could listen in."""

    async def run() -> None:
        with pytest.raises(InvalidSettings, match="TLS"):
            await listen(address, hello("worker", "secret"), Inbox().accept)
        with pytest.raises(InvalidSettings, match="TLS"):
            await connect(address, hello("gateway", "secret"), Inbox().accept, 1.0)

    uvloop.run(run())


def test_tcp_takes_a_token() -> None:
    """A port can be reached by every user of the machine, so even loopback takes a token."""

    async def run() -> None:
        with pytest.raises(InvalidSettings, match="token"):
            await listen(ANYWHERE, hello("worker"), Inbox().accept)

    uvloop.run(run())


def test_nobody_there(tmp_path: Path) -> None:
    """Connecting to nothing is a WireError that names the address."""

    async def run() -> None:
        for address in (f"unix:{tmp_path}/none", "tcp://127.0.0.1:1"):
            with pytest.raises(WireError, match=address):
                await connect(address, hello("gateway"), Inbox().accept, 1.0)

    uvloop.run(run())


def test_a_socket_is_private_and_goes_with_its_listener(tmp_path: Path) -> None:
    """Only the user may enter; closing removes the file, unless a successor listens there."""
    path = tmp_path / "s"

    async def run() -> None:
        first = await listen(f"unix:{path}", hello("worker"), Inbox().accept)
        assert path.stat().st_mode & 0o777 == 0o600
        second = await listen(f"unix:{path}", hello("worker"), Inbox().accept)
        await first.close()
        assert path.exists()
        await second.close()
        await second.close()
        assert not path.exists()

    uvloop.run(run())


@pytest.mark.parametrize("moment", range(4))
def test_who_is_called_off_while_connecting_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Whatever the moment: before it begins, as the socket is there, and before the greeting."""
    made = Connection.connection_made

    async def run() -> None:
        door = await listen(f"unix:{tmp_path}/door", hello("worker"), Inbox().accept)
        before = descriptors()
        task = asyncio.create_task(connect(door.address, hello("gateway"), Inbox().accept, 5.0))

        def cut(connection: Connection, transport: asyncio.BaseTransport) -> None:
            made(connection, transport)
            task.cancel()

        if moment == 1:
            monkeypatch.setattr(Connection, "connection_made", cut)
        else:
            for _ in range(moment):
                await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([task])
            while descriptors() > before:  # noqa: ASYNC110 - the system does not tell
                await asyncio.sleep(0.01)
        assert task.cancelled()
        await door.close()

    uvloop.run(run())


def descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
