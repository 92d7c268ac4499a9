"""Links: greetings, order, what a dead peer had said, what flush promises."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import uvloop

from salver.core.errors import WireError
from salver.wire.connection import Connection, LinkLimits
from salver.wire.framing import PREFIX, encode
from salver.wire.messages import (
    PROTOCOL_VERSION,
    BatchStarted,
    Cancel,
    Infer,
    Message,
    TensorHeader,
)
from salver.wire.transport import LinkOptions, listen
from tests.wire.links import Inbox, hello, pair


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Return where to listen."""
    return f"unix:{tmp_path}/s"


@contextlib.contextmanager
def raw_peer(address: str) -> Iterator[socket.socket]:
    """Connect without any manners."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(address.removeprefix("unix:"))
        yield peer


@pytest.mark.parametrize("coalesce", [True, False])
def test_what_was_encoded_once_is_sent_between_others(address: str, coalesce: bool) -> None:
    """It arrives as if it had been sent as a message."""

    async def run() -> None:
        async with pair(address, LinkOptions(coalesce=coalesce)) as (there, _, connection):
            frame = encode(Cancel(2), 0)
            connection.send(Cancel(1))
            for _ in range(2):
                connection.send_frame(frame)
            connection.send(Cancel(3))
            await there.until_messages(4)
            assert [message for message, _ in there.messages] == [
                Cancel(1), Cancel(2), Cancel(2), Cancel(3),
            ]  # fmt: skip

    uvloop.run(run())


@pytest.mark.parametrize("coalesce", [True, False])
def test_messages_arrive_in_order(address: str, coalesce: bool) -> None:
    """Small and large messages of both directions arrive whole and in order.

    With one write a turn as with one write a message.
    """

    async def run() -> None:
        async with pair(address, LinkOptions(coalesce=coalesce)) as (there, here, connection):
            sent: list[tuple[Message, bytes]] = []
            for index, size in enumerate([0, 10, 5_000_000, 3, 70_000, 0, 200]):
                payload = bytes([index]) * size
                header = TensorHeader("x", "UINT8", (size,), size)
                message = Infer(index, "m:1", (header,), 1, "id")
                sent.append((message, payload))
                connection.send(message, [payload])
            await there.until_messages(len(sent))
            assert there.messages == sent
            assert there.connection is not None
            there.connection.send(Cancel(1))
            await here.until_messages(1)
            assert here.messages == [(Cancel(1), b"")]

    uvloop.run(run())


@pytest.mark.parametrize("difference", [-1, 0, 1])
def test_neighbouring_versions_understand_each_other(address: str, difference: int) -> None:
    """A peer one version older or newer is welcome on both sides."""

    async def run() -> None:
        other = hello("gateway", version=PROTOCOL_VERSION + difference)
        async with pair(address, client=other) as (there, _, connection):
            connection.send(Cancel(1))
            await there.until_messages(1)
            assert there.connection is not None
            assert there.connection.peer == other

    if PROTOCOL_VERSION + difference >= 1:
        uvloop.run(run())
    else:
        with pytest.raises(WireError):
            uvloop.run(run())


@pytest.mark.parametrize("version", [PROTOCOL_VERSION + 2, 0, -1])
def test_distant_versions_are_refused(address: str, version: int) -> None:
    """Two versions apart is refused, and the error tells to update."""

    async def run() -> None:
        async with pair(address, server=hello("worker", version=version)):
            pytest.fail("the link must not open")

    with pytest.raises(WireError, match="update"):
        uvloop.run(run())


@pytest.mark.parametrize(("server", "client"), [("right", "wrong"), ("right", ""), ("", "extra")])
def test_wrong_token_closes_the_link(address: str, server: str, client: str) -> None:
    """Without the right token neither side gets a receiver."""

    async def run() -> None:
        inbox = Inbox()
        listener = await listen(address, hello("worker", server), inbox.accept)
        with raw_peer(address) as peer:
            peer.sendall(encode(hello("gateway", client), 0) + encode(Cancel(1), 0))
            assert await asyncio.to_thread(peer.recv, 100) == b""
        assert inbox.connection is None
        assert inbox.messages == []
        await listener.close()

    uvloop.run(run())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        encode(Cancel(1), 0),
        PREFIX.pack(10, 2**40),
        PREFIX.pack(2**31, 0),
        encode(hello("gateway"), 0) + PREFIX.pack(3, 0) + b"\xc1\xc1\xc1",
        encode(hello("gateway"), 0) + PREFIX.pack(3, 2**60),
    ],
)
def test_malformed_peers_are_cut_off(address: str, data: bytes) -> None:
    """Whatever is no frame closes that link, and another one opens as before."""

    async def run() -> None:
        inbox = Inbox()
        listener = await listen(address, hello("worker"), inbox.accept)
        with raw_peer(address) as peer:
            peer.sendall(data)
            while await asyncio.to_thread(peer.recv, 100):
                pass
        assert inbox.messages == []
        await listener.close()
        async with pair(address) as (there, _, connection):
            connection.send(Cancel(2))
            await there.until_messages(1)

    uvloop.run(run())


def test_last_words_of_a_dead_peer_are_heard(address: str) -> None:
    """What a peer sent before it died arrives although our own write fails first."""

    async def run() -> None:
        inbox = Inbox()
        listener = await listen(address, hello("worker"), inbox.accept)
        with raw_peer(address) as peer:
            peer.sendall(encode(hello("gateway"), 0))
            connection = await inbox.until_accepted()
            peer.sendall(encode(BatchStarted((1, 2, 3)), 0))
        # Not a turn of the loop has passed: the bytes are unread, and the write meets EPIPE.
        connection.send(Cancel(1))
        connection.flush()
        await inbox.until_lost()
        assert inbox.messages == [(BatchStarted((1, 2, 3)), b"")]
        await listener.close()

    uvloop.run(run())


def no_memory(size_bytes: int) -> bytearray:
    """Have no memory for large payloads."""
    raise MemoryError(size_bytes)


@pytest.mark.parametrize("is_last", [False, True])
def test_memory_that_lacks_for_a_payload_ends_the_link(address: str, *, is_last: bool) -> None:
    """Whoever waits on it is told, also when the payload is among a dead peer's last words."""

    async def run() -> None:
        inbox = Inbox()
        options = LinkOptions(allocate=no_memory)
        listener = await listen(address, hello("worker"), inbox.accept, options)
        with raw_peer(address) as peer:
            peer.sendall(encode(hello("gateway"), 0))
            connection = await inbox.until_accepted()
            peer.sendall(encode(Cancel(1), 2_000_000) + bytes(1000))
            if not is_last:
                await inbox.until_lost()
        if is_last:
            connection.send(Cancel(1))
            connection.flush()
        await inbox.until_lost()
        assert inbox.lost[0] is not None
        await listener.close()

    uvloop.run(run())


def test_flushed_bytes_are_with_the_kernel(address: str) -> None:
    """After flush the peer can read the message although our loop has not turned.

    When the peer does not read, the link says that it is blocked, and tells when it is free.
    """

    async def run() -> None:
        inbox = Inbox()
        listener = await listen(address, hello("worker"), inbox.accept)
        with raw_peer(address) as peer:
            peer.sendall(encode(hello("gateway"), 0))
            connection = await inbox.until_accepted()
            await asyncio.sleep(0)
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                peer.recv(10_000)
            connection.send(BatchStarted((7,)))
            connection.flush()
            assert not connection.is_blocked
            assert peer.recv(1000) == encode(BatchStarted((7,)), 0)
            connection.send(Cancel(1), [bytes(10_000_000)])
            connection.flush()
            assert connection.is_blocked
            assert connection.buffered_bytes > 0
            free = asyncio.Event()
            connection.when_unblocked(free.set)
            peer.setblocking(True)

            def read_all() -> None:
                left = 10_000_000
                while left > 0:
                    left -= len(peer.recv(1_000_000))

            await asyncio.to_thread(read_all)
            async with asyncio.timeout(10):
                await free.wait()
            assert not connection.is_blocked
        await inbox.until_lost()
        await listener.close()

    uvloop.run(run())


def test_too_large_a_payload_is_not_sent(address: str) -> None:
    """What the peer would refuse fails where it is sent, and the link stays open."""

    async def run() -> None:
        async with pair(address, LinkOptions(max_frame_bytes=1000)) as (there, _, connection):
            with pytest.raises(WireError, match="over the limit"):
                connection.send(Cancel(1), [bytes(1001)])
            connection.send(Cancel(2), [bytes(1000)])
            await there.until_messages(1)
            assert there.messages == [(Cancel(2), bytes(1000))]

    uvloop.run(run())


def test_links_leave_no_descriptor_behind(address: str) -> None:
    """Opening and closing links does not use up file descriptors."""

    async def run() -> None:
        counts = []
        for _ in range(3):
            async with pair(address) as (there, _, connection):
                connection.send(Cancel(1))
                await there.until_messages(1)
            await there.until_lost()
            counts.append(psutil.Process().num_fds())
        assert counts[0] == counts[1] == counts[2]

    uvloop.run(run())


def test_silence_is_not_a_greeting(address: str) -> None:
    """A peer that says nothing is cut off after a while; closing before that is an error too."""

    async def run() -> None:
        connection = Connection(
            hello("worker"), Inbox().accept, initiator=True, limits=LinkLimits(1000)
        )
        connection.connection_lost(None)
        with pytest.raises(WireError, match="before it greeted"):
            await connection.greeted

    uvloop.run(run())
