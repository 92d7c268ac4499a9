"""Connections whose transport takes no answer: they end, and whoever answers goes on."""

import socket
from collections.abc import Sequence
from typing import Any

import orjson

from salver.gateway.h2 import frames as f
from salver.gateway.h2.connection import Http2Connection
from tests.gateway.h2.inmemory import BLOCK, GREETING
from tests.gateway.inprocess import RunningServer, post, read_all, split_reply
from tests.gateway.test_gather import Clients, Engine, ask, idle, warm
from tests.gateway.test_joint import INFER, row
from tests.gateway.test_joint import ask as hold


class Broken:
    """A transport whose writes raise; all else is that of the real one."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        """Return what the real one has."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Take nothing."""
        raise RuntimeError("the handler is closed")

    def writelines(self, data: Sequence[bytes]) -> None:
        """Take nothing."""
        raise RuntimeError("the handler is closed")


def break_one(server: RunningServer, client: socket.socket) -> None:
    """Let the server's side of a client's connection take nothing any more."""
    assert server.server is not None
    connections: set[Any] = {*server.server._connections}
    for connection in connections:
        transport = connection._transport
        if transport.get_extra_info("peername") == client.getsockname():
            connection._transport = Broken(transport)
            if isinstance(connection, Http2Connection):
                connection.output.transport = connection._transport
            return
    raise AssertionError("no such connection")


def test_one_of_a_cohort_fails_alone() -> None:
    """Its client sees the end of the connection, and neighbours their answers."""
    engine = Engine()
    with RunningServer(last=engine) as server:
        warm(server)
        clients = Clients(server, 5)
        engine.hold = True
        clients.send([ask(10 + n) for n in range(5)])
        server.run(lambda: break_one(server, clients.sockets[2]))
        server.run(engine.release)
        for index in (0, 1, 3, 4):
            values = orjson.loads(clients.read(index)[2])["outputs"][0]["data"]
            assert values == [10 + index] * 2
        assert clients.sockets[2].recv(1) == b""
        assert idle(server)
        clients.close()


def test_one_of_many_single_answers_fails_alone(server: RunningServer) -> None:
    """What it had taken is given back, and it is in no way of the others."""
    clients = hold(server, *[post(INFER, row(float(n))) for n in range(3)])
    server.run(lambda: break_one(server, clients[0]))
    server.release_jointly()
    assert clients[0].recv(1) == b""
    for client in clients[1:]:
        assert split_reply(read_all(client))[0] == 200
    for client in clients:
        client.close()
    assert server.inference.open_count == 0


def test_an_http2_connection_ends(server: RunningServer) -> None:
    """Its client does not wait for frames that were lost."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(GREETING)
        assert client.recv(9)
        server.run(lambda: break_one(server, client))
        client.sendall(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, BLOCK))
        try:
            while client.recv(4096):
                pass
        except ConnectionResetError:
            return
