"""The blocking client, against a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bench.wire_http import Connection, Target


class Echo(BaseHTTPRequestHandler):
    """Answers with the body it got."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Send the body back; the key names the status."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(int(self.headers["X-Status"]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Keep the test's output clean."""


@pytest.fixture
def port() -> Iterator[int]:
    """A running echo server."""
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_bodies_come_back_whole_over_one_connection(port: int) -> None:
    """Small and large answers are read to their end, one after the other."""
    connection = Connection(Target(port, "/", {"X-Status": "200"}), 10.0, 1 << 21)
    for size in (0, 10, 1 << 21):
        body = b"ab" * (size // 2)
        answer = connection.post(body, {})
        assert (answer.status, bytes(answer.body)) == (200, body)
    connection.close()


def test_an_answer_beyond_the_buffer_is_refused(port: int) -> None:
    """A server cannot make the client read more than it asked for."""
    connection = Connection(Target(port, "/", {"X-Status": "200"}), 10.0, 16)
    with pytest.raises(ValueError, match="longer than the buffer"):
        connection.post(b"x" * (1 << 17), {})
    connection.close()
