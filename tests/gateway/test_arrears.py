"""What all clients of a gateway leave unread together is bounded."""

import asyncio
import socket
from dataclasses import dataclass

import numpy as np
import orjson
import pytest

from salver.core.settings import HttpSettings
from salver.gateway.h2 import frames as f
from salver.gateway.http.arrears import Arrears, Unread
from salver.gateway.http.message import HttpMessage
from tests.gateway.h2.test_protections import body_of
from tests.gateway.h2.test_protections import post as post_h2
from tests.gateway.h2.wire import Wire
from tests.gateway.inprocess import RunningServer, exchange_bytes, post, split_reply, until
from tests.gateway.test_pipelined import ANSWER, GET, connection, in_loop

MIB = 1024 * 1024
INFER = "/v2/models/identity-fp32/infer"


@dataclass
class Owing:
    """A connection for which something waits."""

    name: str
    size_bytes: int
    since_ns: int

    def unread(self, now_ns: int) -> Unread:
        """Return what waits."""
        return Unread(self.size_bytes, min(self.since_ns, now_ns))


@pytest.mark.parametrize(
    ("limit_bytes", "closed"),
    [(0, ""), (100, ""), (99, "b"), (70, "b"), (69, "bc"), (39, "bc"), (38, "bca"), (1, "bca")],
)
def test_who_has_read_nothing_for_longest_goes_first(limit_bytes: int, closed: str) -> None:
    """Of several at once the one with most; no more than needed, and nobody who owes nothing."""
    owing = [Owing("a", 39, 20), Owing("b", 30, 10), Owing("c", 31, 10), Owing("d", 0, 1)]
    owing[1].since_ns = 9
    arrears = Arrears(limit_bytes, lambda: None)
    assert "".join(one.name for one in arrears.excess(owing, 30)) == closed
    owing[1].since_ns = 10
    first = arrears.excess(owing, 30)[:1]
    assert not closed or first == [owing[2]]


@in_loop
async def test_large_answers_have_it_looked_at() -> None:
    """Once for each part of the limit that was made, soon but not at once; never without one."""
    looks: list[int] = []
    for limit_bytes, count in ((800, 2), (0, 0)):
        arrears = Arrears(limit_bytes, lambda: looks.append(1))
        for size in (100, 1, 50, 50, 1):
            arrears.grew(size)
        assert not looks
        await asyncio.sleep(0)
        arrears.grew(101)
        await asyncio.sleep(0)
        assert len(looks) == count
        looks.clear()


@in_loop
async def test_answers_behind_a_slow_one_are_bounded() -> None:
    """No more is asked on a connection while too much waits for the first, and all is answered."""
    messages: list[HttpMessage] = []
    made, transport = connection(messages)
    for number in range(20):
        made.data_received(GET % number)
        if number:
            messages[-1].respond(200, (ANSWER,))
        if not transport.reading:
            break
    most = (1 << 20) // len(ANSWER) + 1
    assert len(messages) == most + 1
    assert made.unread(0).size_bytes == most * len(ANSWER)
    messages[0].respond(200, (ANSWER,))
    transport.drain()
    assert transport.reading
    assert made.unread(0).size_bytes == 0


def wide(count: int) -> bytes:
    """Return a request of that many values, and a binary answer."""
    values = np.zeros(count, np.float32)
    item = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, count],
        "parameters": {"binary_data_size": values.nbytes},
    }
    json = orjson.dumps({"inputs": [item], "parameters": {"binary_data_output": True}})
    fields = f"Inference-Header-Content-Length: {len(json)}"
    return post(INFER, json + values.tobytes(), fields, close=False)


def test_connections_that_never_read_are_bounded_together() -> None:
    """Those who do not read are cut off, over either version of HTTP, and others are served."""
    settings = HttpSettings(unread_bytes=8 * MIB)
    with RunningServer(settings) as server:
        assert server.server is not None
        before = server.server.connections
        clients, wires = [], []
        for _ in range(4):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            client.sendall(wide(2 * MIB))
            clients.append(client)
            wire = Wire(server.port)
            wire.send(f.settings_frame({f.INITIAL_WINDOW_SIZE: 0}))
            wire.send(post_h2(1, body_of(400_000)))
            wires.append(wire)
        until(lambda: len(server.computer.contexts) == 8)
        now_ns, http = server.server.clock.monotonic_ns, server.server

        def held_bytes() -> int:
            return sum(one.unread(now_ns()).size_bytes for one in list(http._connections))

        until(lambda: http.connections - before < 8 and held_bytes() <= 8 * MIB)
        reply = exchange_bytes(server.port, post(INFER, body_of(2)))
        assert split_reply(reply)[0] == 200
        for client in clients:
            client.close()
        for wire in wires:
            wire.__exit__()
