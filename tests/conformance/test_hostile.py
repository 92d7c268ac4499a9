"""A server that misbehaves on the wire fails checks; it never stops or fools the suite."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from salver.conformance.base import Verdict
from salver.conformance.client import MAX_BODY_BYTES, Client
from salver.conformance.exchange import SHOWN_BYTES, Exchange, body_text, shown
from salver.conformance.runner import run
from salver.conformance.session import opened
from tests.conformance.broken_server import Break, TinyServer
from tests.conformance.oip_model import MODEL, Reply


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """Answer every connection with these bytes and close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def ask(url: str, timeout_s: float = 10.0) -> Exchange:
    """Return what comes of one request."""
    client = Client(url, timeout_s=timeout_s)
    client.start()
    try:
        return client.ask("GET", "/v2")
    finally:
        client.stop()


def test_what_is_no_http_is_no_answer() -> None:
    """Bytes that are no HTTP, an early end and silence are exchanges with an error."""
    for answer in (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b""):
        with raw_server(answer) as url:
            exchange = ask(url)
        assert exchange.status == 0
        assert exchange.error.startswith("no answer: ")


def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    """A server may close between two requests without a word; the second one is answered too."""
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as url:
        client = Client(url)
        client.start()
        found = [client.ask("GET", "/v2") for _ in range(20)]
        client.stop()
    assert [(exchange.status, exchange.connections) for exchange in found] == [(200, 1)] * 20
    assert len(client.exchanges) == 20


def test_silence_ends_in_time() -> None:
    """A server that takes a request and says nothing is no answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert ask(url, timeout_s=0.2).error == "no answer in time"


def test_an_endless_body_is_cut_off() -> None:
    """A body over the limit is no answer."""
    with raw_server(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MAX_BODY_BYTES + 1)) as url:
        assert "is over" in ask(url).error


def test_deep_json_fails_a_check() -> None:
    """JSON that is nested too deeply to be read is a failed check, not the end of the suite."""
    deep = b"[" * 100_000 + b"]" * 100_000

    def edit(reply: Reply) -> None:
        reply.body = deep

    defect = Break("server.metadata", frozenset(), "server", edit)
    with TinyServer(defect) as server, opened(server.url, MODEL) as subject:
        outcomes = {outcome.check.name: outcome for outcome in run(subject)}
    assert outcomes["server.metadata"].verdict is Verdict.FAILED


def test_what_is_shown_is_printable_and_bounded() -> None:
    """A body is cut and its control characters are written out; secrets are masked everywhere."""
    text = body_text(b"\x1b[31mred\n" + b"\xff" * 10_000)
    assert text.startswith("\\x1b[31mred\\n")
    assert text.isprintable()
    assert len(text) < 5 * SHOWN_BYTES
    exchange = Exchange(
        "GET", "/v2", {"Authorization": "Bearer tell-nobody"}, b"", 200,
        {"content-type": "tell-nobody"}, b'{"error": "key tell-nobody is wrong"}',
    )  # fmt: skip
    assert "tell-nobody" not in str(shown(exchange, "tell-nobody"))
    assert "tell-nobody" not in str(shown(exchange)["request_headers"])
