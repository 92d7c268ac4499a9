"""The open loop over gRPC, against servers of the h2 library: all is sent, and all is counted."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from h2.settings import SettingCodes

from salver.bench.asking import Asker
from salver.bench.channels import Channels
from salver.bench.figures import Arrivals, Step
from salver.bench.generator import OpenLoop, Run
from salver.bench.heads import PATH, Heads
from salver.bench.message import named
from salver.bench.record import integers
from salver.bench.schedule import arrival_times
from salver.bench.summary import Objective, summarise
from salver.bench.target import Target
from salver.core.clock import SystemClock
from salver.core.errors import InvalidSettings, NotReady, UnsupportedOperation
from tests import certificates
from tests.load.http2 import Answer, Call, Peer, Server

CLOCK = SystemClock()
REQUEST = named("m", b"")
_LONG_S = 60.0
Progress = Callable[[int, int], None]


@dataclass
class Load:
    """One run: how many calls at which rate over how many connections of how many streams."""

    count: int
    rate_per_s: float = 2000.0
    connections: int = 4
    streams: int = 100
    timeout_s: float = _LONG_S
    requests: tuple[bytes, ...] = (REQUEST,)
    api_key: str = ""
    opened: int = 0

    def channels(self, target: Target) -> Channels:
        """Return what carries the calls."""
        heads = Heads(target, self.api_key)
        return Channels(
            target,
            heads,
            CLOCK,
            limit=self.connections,
            streams=self.streams,
            timeout_s=self.timeout_s,
        )

    async def run(self, target: Target, progress: Progress | None = None) -> Run:
        """Send it; an answer that never comes ends the test."""
        channels = self.channels(target)
        times = arrival_times(
            Arrivals.CONSTANT, self.rate_per_s, (self.count + 0.5) / self.rate_per_s, 0
        )
        try:
            async with asyncio.timeout(_LONG_S):
                if self.opened:
                    await channels.open(self.opened)
                loop = OpenLoop(channels, CLOCK, late_limit_s=_LONG_S)
                return await loop.run(times[: self.count], self.requests, progress=progress)
        finally:
            await channels.close()

    def against(self, answer: Answer, **options: Any) -> tuple[Run, Server]:
        """Run it against a server of its own."""

        async def body() -> tuple[Run, Server]:
            async with Server(answer, **options) as server:
                return await self.run(server.target), server

        return asyncio.run(body())

    def summary(self, run: Run) -> Step:
        """Return a run's figures."""
        objective = Objective(60.0, 0.99, 0.99)
        return summarise(run, self.rate_per_s, self.count / self.rate_per_s, objective)


def names(run: Run) -> Counter[str]:
    """Return how many calls ended how."""
    return Counter(run.record.names[outcome] for outcome in run.record.outcomes)


def right(peer: Peer, call: Call) -> None:
    """Answer every call at once."""
    peer.ok(call)


def test_a_stall_is_charged_to_every_call_that_was_due_in_it() -> None:
    """No coordinated omission: what is due while the server stalls is sent, and shows the stall.

    The server holds every answer from the 20th call on until 80 more have come.
    """
    held: list[tuple[Peer, Call]] = []
    released_ns = 0

    def stalling(peer: Peer, call: Call) -> None:
        nonlocal released_ns
        if call.number < 20 or released_ns:
            peer.ok(call)
            return
        held.append((peer, call))
        if call.number >= 100:
            released_ns = time.monotonic_ns()
            for waiting, one in held:
                waiting.ok(one)

    load = Load(150)
    run, _ = load.against(stalling)
    assert names(run) == {"ok": 150}
    due, sent, done = (
        integers(column) for column in (run.record.due_ns, run.record.sent_ns, run.record.done_ns)
    )
    stalled = (sent < released_ns) & (done >= released_ns)
    assert stalled.sum() >= 80
    waited_us = np.sort((released_ns - due[stalled]) / 1e3)
    latency = load.summary(run).latency_us
    assert latency is not None
    assert latency.p50 >= waited_us[0]
    assert latency.max >= waited_us[-1]


def test_calls_beyond_the_bound_are_counted_and_never_sent() -> None:
    """Two connections of two streams take four calls; the others are neither sent nor lost."""
    held: list[tuple[Peer, Call]] = []

    def progress(due: int, _ended: int) -> None:
        if due == 50:
            for peer, call in held:
                peer.ok(call)
            held.clear()

    async def body() -> tuple[Run, Server]:
        async with Server(lambda peer, call: held.append((peer, call))) as server:
            return await load.run(server.target, progress), server

    load = Load(50, connections=2, streams=2)
    run, server = asyncio.run(body())
    assert names(run) == {"ok": 4, "not_sent_no_connection": 46}
    assert (server.arrived, server.most_open) == (4, 2)
    assert load.summary(run).objective_share == 4 / 50


def test_calls_are_spread_over_the_connections_that_were_opened() -> None:
    """Calls that are answered at once still go to every connection in turn."""
    seen: Counter[int] = Counter()

    def counting(peer: Peer, call: Call) -> None:
        seen[id(peer)] += 1
        peer.ok(call)

    run, _ = Load(40, rate_per_s=200, opened=4).against(counting)
    assert names(run) == {"ok": 40}
    assert sorted(seen.values()) == [10, 10, 10, 10]


def test_every_end_is_counted_by_its_name() -> None:
    """Refusals count by status and code, everything else as what it is; only 0 is goodput."""

    def turning(peer: Peer, call: Call) -> None:
        turn = call.number % 6
        if turn == 0:
            peer.ok(call)
        elif turn == 1:
            peer.refuse(call, 14, x_salver_code="overloaded", grpc_message="full")
        elif turn == 2:
            peer.refuse(call, 8)
        elif turn == 3:
            peer.h2.reset_stream(call.stream, 7)
        elif turn == 4:
            peer.h2.send_headers(call.stream, [(":status", "404")], end_stream=True)
        else:
            peer.h2.send_headers(call.stream, [(":status", "502")])
            peer.h2.send_data(call.stream, b"bad gateway", end_stream=True)
        peer.flush()

    load = Load(120)
    run, _ = load.against(turning)
    expected = dict.fromkeys(
        (
            "ok", "UNAVAILABLE overloaded", "RESOURCE_EXHAUSTED", "stream_reset REFUSED_STREAM",
            "HTTP 404 without grpc-status", "HTTP 502 without grpc-status",
        ), 20,
    )  # fmt: skip
    assert names(run) == expected
    step = load.summary(run)
    assert (step.requests.ok, step.requests.good, step.requests.failed) == (20, 20, 100)
    assert step.refusal_us is not None
    assert not step.met


def test_codes_are_kept_to_plain_letters_and_a_bounded_number() -> None:
    """What a server calls its errors neither fills the memory nor reaches a terminal as it is."""

    def inventive(peer: Peer, call: Call) -> None:
        if call.number % 2:
            peer.refuse(call, 2, x_salver_code=f"\x1b[31mred{call.number}")
        else:
            peer.refuse(call, 1000 + call.number)

    run, _ = Load(200).against(inventive)
    assert len(run.record.names) <= 64
    assert all(name.isprintable() and "[" not in name for name in run.record.names)
    assert sum(names(run).values()) == 200


def test_a_call_that_takes_too_long_ends_alone() -> None:
    """Others of its connection go on, and the server is told that nobody waits for it any more."""
    reset: list[int] = []

    def sometimes(peer: Peer, call: Call) -> None:
        reset[:] = peer.reset
        if call.number % 10 or call.number > 50:
            peer.ok(call)

    run, server = Load(200, rate_per_s=200, connections=1, timeout_s=0.2).against(sometimes)
    assert names(run) == {"ok": 195, "timeout": 5}
    assert len(reset) == 5
    assert server.arrived == 200


def test_where_nothing_listens_every_call_fails() -> None:
    """Connections that cannot be opened are failures, and opening some beforehand says so."""
    load = Load(20)

    async def body() -> Run:
        async with Server(right) as server:
            target = server.target
        with pytest.raises(NotReady):
            await load.channels(target).open(2)
        return await load.run(target)

    assert names(asyncio.run(body())) == {"connect_failed": 20}


@pytest.mark.parametrize(
    ("answer", "expected", "text"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            UnsupportedOperation,
            "no HTTP/2",
        ),
        (b"", UnsupportedOperation, "closed the connection"),
        (None, NotReady, "says nothing"),
    ],
)
def test_a_server_without_http2_is_told_so(
    answer: bytes | None, expected: type[Exception], text: str
) -> None:
    """HTTP/1.1, a close and silence are three ways not to speak gRPC; none holds up a run."""
    load = Load(20, timeout_s=0.3)

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000) and answer is None:
            pass
        writer.write(answer or b"")
        writer.close()

    async def body() -> Run:
        listening = await asyncio.start_server(other, "127.0.0.1", 0)
        async with listening:
            target = Target("localhost", "127.0.0.1", listening.sockets[0].getsockname()[1])
            channels = load.channels(target)
            with pytest.raises(expected, match=text):
                await channels.open(1)
            await channels.close()
            return await load.run(target)

    assert set(names(asyncio.run(body()))) <= {"bad_answer", "connection_lost", "timeout"}


@pytest.mark.parametrize("window_bytes", [1, 1000, FIRST := 65_535, 1 << 20])
def test_large_messages_arrive_whole(window_bytes: int) -> None:
    """Whatever windows the server opens, every message arrives as it was, small ones between."""
    size = 2_000 if window_bytes == 1 else 300_000
    generator = np.random.default_rng(0)
    requests = (named("large", generator.bytes(size)), named("small", b"xyz"))
    arrived: Counter[bytes] = Counter()

    def keeping(peer: Peer, call: Call) -> None:
        arrived[bytes(call.body)] += 1
        peer.ok(call)

    settings = {SettingCodes.INITIAL_WINDOW_SIZE: window_bytes}
    load = Load(20, rate_per_s=1000, connections=2, requests=requests)
    run, _ = load.against(keeping, settings=settings)
    assert names(run) == {"ok": 20}
    assert set(arrived) == set(requests)
    assert sum(arrived.values()) == 20


def test_a_server_that_opens_no_window_gets_no_more() -> None:
    """What does not fit into the windows waits, and ends as a timeout, not as a flood."""
    requests = (named("large", bytes(50_000)),)
    run, server = Load(8, connections=1, timeout_s=0.3, requests=requests).against(
        right, grants=False
    )
    assert names(run) == {"ok": 1, "timeout": 7}
    assert server.arrived == 8


def test_no_more_streams_than_the_server_allows() -> None:
    """A server that takes three calls at once gets three, and never a fourth."""
    held: list[tuple[Peer, Call]] = []

    def pairs(peer: Peer, call: Call) -> None:
        held.append((peer, call))
        if len(held) == 3:
            for waiting, one in held:
                waiting.ok(one)
            held.clear()

    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 3}
    load = Load(60, connections=1, timeout_s=1.0)
    run, server = load.against(pairs, settings=settings)
    ended = names(run)
    assert server.most_open == 3
    assert ended["ok"] >= 3
    assert set(ended) <= {"ok", "not_sent_no_connection", "timeout"}
    assert sum(ended.values()) == 60


@pytest.mark.parametrize("table_bytes", [0, 100, 4096, 65_536])
@pytest.mark.parametrize("key", ["", "k3y", "k" * 5000])
def test_the_fields_are_the_same_in_every_call(table_bytes: int, key: str) -> None:
    """However large the server's header table is, each call has its path, key and deadline."""
    fields: list[dict[str, str]] = []

    def keeping(peer: Peer, call: Call) -> None:
        fields.append(call.fields)
        peer.ok(call)

    settings = {
        SettingCodes.HEADER_TABLE_SIZE: table_bytes,
        SettingCodes.MAX_HEADER_LIST_SIZE: 65_536,
    }
    load = Load(10, connections=1, api_key=key, timeout_s=30.0)
    run, _ = load.against(keeping, settings=settings)
    assert names(run) == {"ok": 10}
    timeouts = [one.pop("grpc-timeout") for one in fields]
    # What is left is less than the whole patience, as it counts from when the call was due.
    assert all(0 < int(timeout.removesuffix("u")) < 30_000_000 for timeout in timeouts)
    expected = {
        ":method": "POST",
        ":scheme": "http",
        ":path": PATH,
        ":authority": fields[0][":authority"],
        "te": "trailers",
        "content-type": "application/grpc",
        **({"authorization": f"Bearer {key}"} if key else {}),
    }
    assert fields == [expected] * 10


@pytest.mark.parametrize("connections", [1, 2])
def test_a_connection_that_goes_away_is_replaced(connections: int) -> None:
    """After GOAWAY the calls that were begun end right, and later ones go elsewhere."""
    goaway = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0"
    seen: list[Peer] = []

    def leaving(peer: Peer, call: Call) -> None:
        if peer not in seen:
            seen.append(peer)
        if call.number in (20, 60):
            peer.transport.write(goaway)
        peer.ok(call)

    load = Load(100, rate_per_s=500, connections=connections, opened=connections)
    run, server = load.against(leaving)
    assert names(run) == {"ok": 100}
    assert len(seen) == connections + 2
    assert server.peers == []


def test_a_server_that_is_fed_up_is_named() -> None:
    """What a connection was ended for stands in the name of its calls."""
    told: set[Peer] = set()

    def fed_up(peer: Peer, _call: Call) -> None:
        # Two calls may come in one read, and there is no writing after the end.
        if peer in told:
            return
        told.add(peer)
        peer.h2.close_connection(error_code=11, last_stream_id=0)
        peer.flush()
        # Closed for reading too, it would answer the next call with a reset that overtakes this.
        peer.transport.write_eof()

    run, _ = Load(5).against(fed_up)
    assert names(run) == {"connection_ended ENHANCE_YOUR_CALM": 5}


def test_tls(tmp_path: Path) -> None:
    """HTTP/2 is agreed on over TLS; a server that offers none is refused, and so is a stranger."""
    authority = certificates.Authority(tmp_path)
    issued = authority.issue("server")
    load = Load(30)

    async def run_with(trusted: ssl.SSLContext, *offered: str) -> Run:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.certificate, issued.key)
        if offered:
            context.set_alpn_protocols(list(offered))
        async with Server(right, tls=context) as server:
            target = replace(server.target, tls=trusted)
            if not offered:
                with pytest.raises(UnsupportedOperation, match="ALPN"):
                    await load.channels(target).open(1)
            return await load.run(target)

    trusted = authority.client(None, "h2")
    assert names(asyncio.run(run_with(trusted, "h2"))) == {"ok": 30}
    assert set(names(asyncio.run(run_with(trusted)))) <= {"bad_answer", "connection_lost"}
    assert names(asyncio.run(run_with(ssl.create_default_context(), "h2"))) == {
        "connect_failed": 30
    }


def test_a_server_that_only_asks_is_given_up() -> None:
    """Pings are answered; a server that sends them without reading cannot fill the memory."""
    ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)

    async def body() -> Counter[str]:
        async def asking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(24)
            writer.write(b"\0\0\0\x04\0\0\0\0\0")
            # It never reads again, so its window and its buffers fill up.
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            try:
                for _ in range(2000):
                    writer.write(ping * 1000)
                    await writer.drain()
            except OSError:
                pass
            finally:
                writer.close()

        listening = await asyncio.start_server(asking, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            run = await Load(1, timeout_s=30.0).run(Target("localhost", "127.0.0.1", port))
            return names(run)

    assert asyncio.run(body()) == {"bad_answer": 1}


@pytest.mark.parametrize("key", ["a\r\nb", "a\0", " ", "k" * 9000])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    """It cannot smuggle in a second header, nor fill a frame."""
    with pytest.raises(InvalidSettings):
        Heads(Target("localhost", "127.0.0.1", 1), key).check()
    with pytest.raises(InvalidSettings), Asker(Target("localhost", "127.0.0.1", 1), key, 1.0):
        pass
