"""Doors and how they are opened: Unix sockets, TCP with TLS and a token."""

from pathlib import Path

import pytest
import uvloop

from salver.core.errors import InvalidSettings, WireError
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
