"""TLS on the data port: what is spoken, who is refused, and that nothing else stops."""

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import orjson
import pytest
from cryptography import x509
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

from salver.core.settings import Http2Settings, HttpSettings
from salver.core.tls import ServerTls
from tests.certificates import Authority, Issued
from tests.gateway.grpc.calls import infer, infer_request, outputs_of
from tests.gateway.inprocess import RunningServer, post, read_all, split_reply, until
from tests.gateway.test_http_bad import GOOD, INFER

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LARGE = np.arange(5_000_000, dtype=np.float32).reshape(1, -1)


@dataclass
class Party:
    """A server that speaks TLS, and who it trusts."""

    server: RunningServer
    authority: Authority
    own: Issued


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def party(authority: Authority) -> Iterator[Party]:
    """Give a server whose clients need no certificate."""
    own = authority.issue("server")
    settings = HttpSettings(header_timeout_s=0.4)
    with RunningServer(settings, tls=ServerTls(own.certificate, own.key)) as server:
        yield Party(server, authority, own)


@pytest.fixture(scope="module")
def mutual(authority: Authority) -> Iterator[Party]:
    """Give a server whose clients must show a certificate."""
    own = authority.issue("server")
    tls = ServerTls(own.certificate, own.key, authority.file)
    with RunningServer(tls=tls) as server:
        yield Party(server, authority, own)


def open_tls(server: RunningServer, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a connection whose handshake is done, as far as the client can tell."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    return context.wrap_socket(plain, server_hostname="localhost")


def ask(server: RunningServer, context: ssl.SSLContext, data: bytes = LIVE) -> tuple[int, bytes]:
    """Send one request that closes; returns status and body."""
    with open_tls(server, context) as client:
        client.sendall(data)
        status, _, body = split_reply(read_all(client))
    return status, body


def open_connections(server: RunningServer) -> int:
    """Return how many connections the server counts."""
    assert server.server is not None
    return server.server.connections


def is_cut_off(server: RunningServer, context: ssl.SSLContext) -> bool:
    """Tell whether the server ends the connection without an answer."""
    try:
        with open_tls(server, context) as client:
            client.sendall(LIVE)
            return client.recv(100) == b""
    except OSError:
        return True


def still_answers(party: Party) -> bool:
    """Tell whether a good client is answered."""
    return ask(party.server, party.authority.client())[0] == 200


def channel(party: Party, issued: Issued | None = None) -> grpc.Channel:
    """Return a channel of the real gRPC library."""
    key, certificate = None, None
    if issued is not None:
        key, certificate = issued.key.read_bytes(), issued.certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(party.authority.file.read_bytes(), key, certificate)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    return grpc.secure_channel(f"localhost:{party.server.port}", credentials, options=options)


def binary_request(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    """Return a request with one tensor behind its JSON, answered in the same way."""
    item = {
        "name": "x",
        "datatype": "FP32",
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    json = orjson.dumps({"inputs": [item], "parameters": {"binary_data_output": True}})
    length = f"Inference-Header-Content-Length: {len(json)}"
    return post("/v2/models/identity-fp32/infer", json + array.tobytes(), length)


def test_http_over_tls(party: Party) -> None:
    """REST is answered over TLS 1.2 and 1.3, and nothing older is spoken."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = party.authority.client()
        context.minimum_version = context.maximum_version = version
        assert ask(party.server, context) == (200, b'{"live":true}')
    old = party.authority.client()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert is_cut_off(party.server, old)
    assert still_answers(party)


def test_a_kept_connection_answers_again(party: Party) -> None:
    """Requests whose heads are remembered are answered like the first one."""
    with open_tls(party.server, party.authority.client()) as client:
        replies = []
        for _ in range(3):
            client.sendall(post(INFER, GOOD, close=False))
            replies.append(split_reply(client.recv(65536)))
    assert [status for status, _, _ in replies] == [200] * 3
    assert {body for _, _, body in replies} == {replies[0][2]}


@pytest.mark.parametrize("http2", [False, True])
def test_httpx(party: Party, http2: bool) -> None:
    """A client that offers h2 over ALPN gets it, another one HTTP/1.1."""
    url = f"https://localhost:{party.server.port}"
    with httpx.Client(verify=party.authority.client(), http2=http2) as client:
        for _ in range(2):
            response = client.post(url + INFER, content=GOOD)
            assert response.status_code == 200
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")


def test_alpn(party: Party) -> None:
    """The server prefers h2, takes what is offered, and goes on without ALPN or a common name."""
    chosen = []
    for offered in (("http/1.1", "h2"), ("http/1.1",), ("spdy/1",), ()):
        with open_tls(party.server, party.authority.client(None, *offered)) as client:
            chosen.append(client.selected_alpn_protocol())
    assert chosen == ["h2", "http/1.1", None, None]


def test_without_http2_it_is_not_offered(authority: Authority) -> None:
    """Where HTTP/2 is off, ALPN has HTTP/1.1 only and such clients are served."""
    own = authority.issue("server")
    tls = ServerTls(own.certificate, own.key)
    with RunningServer(http2=Http2Settings(enabled=False), tls=tls) as server:
        context = authority.client(None, "h2", "http/1.1")
        with open_tls(server, context) as client:
            assert client.selected_alpn_protocol() == "http/1.1"
            client.sendall(LIVE)
            assert split_reply(read_all(client))[0] == 200


def test_h2_gets_settings_before_the_preface(party: Party) -> None:
    """A client that agreed on h2 hears the server's SETTINGS without having sent anything."""
    with open_tls(party.server, party.authority.client(None, "h2")) as client:
        assert client.recv(9)[3:4] == b"\x04"


def test_h2_with_something_else_than_the_preface(party: Party) -> None:
    """A client that agreed on h2 and sends HTTP/1.1 is told off in HTTP/2 and cut off."""
    with open_tls(party.server, party.authority.client(None, "h2")) as client:
        client.sendall(LIVE)
        assert b"HTTP/1.1" not in read_all(client)
    assert still_answers(party)


@pytest.mark.parametrize("offered", [(), ("http/1.1",)])
def test_the_preface_without_alpn(party: Party, offered: tuple[str, ...]) -> None:
    """The preface of HTTP/2 is understood from clients that did not agree on h2."""
    with open_tls(party.server, party.authority.client(None, *offered)) as client:
        speaker = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        speaker.initiate_connection()
        fields = [(":method", "GET"), (":path", "/v2/health/live"), (":scheme", "https")]
        speaker.send_headers(1, [*fields, (":authority", "a")], end_stream=True)
        client.sendall(speaker.data_to_send())
        events: list[object] = []
        while not any(isinstance(event, StreamEnded) for event in events):
            data = client.recv(65536)
            assert data
            events += speaker.receive_data(data)


def test_large_tensors(party: Party) -> None:
    """20 MB of tensor pass unchanged in both directions over HTTP/1.1."""
    status, body = ask(party.server, party.authority.client(), binary_request(LARGE))
    assert status == 200
    assert body.endswith(LARGE.tobytes())


def test_large_bodies_one_after_the_other(party: Party) -> None:
    """A large request and a small one behind it on one connection are both answered."""
    head, _, rest = binary_request(LARGE).partition(b"Connection: close\r\n")
    with open_tls(party.server, party.authority.client()) as client:
        client.sendall(head + rest + LIVE)
        answers = read_all(client)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert LARGE.tobytes() in answers
    assert answers.endswith(b'{"live":true}')


def test_large_tensors_over_grpc(party: Party) -> None:
    """20 MB of tensor pass unchanged in both directions in a call."""
    with channel(party) as opened:
        answer = infer(opened, infer_request("identity-fp32", {"x": LARGE}), timeout=60)
    assert np.array_equal(outputs_of(answer)["y"], LARGE)


@pytest.mark.parametrize("data", [LIVE, bytes(range(256)) * 8, b"\x16\x03\x01\x00\x05hello", b""])
def test_what_is_not_tls_is_cut_off(party: Party, data: bytes) -> None:
    """Plain HTTP, garbage, a broken hello and silence end without an HTTP answer."""
    with socket.create_connection(("127.0.0.1", party.server.port), timeout=10) as client:
        client.sendall(data)
        assert b"HTTP" not in read_all(client)
    assert still_answers(party)


def test_a_client_that_leaves_in_the_handshake(party: Party) -> None:
    """Clients that leave at any point of the handshake stop nobody else."""
    outgoing = ssl.MemoryBIO()
    hello = party.authority.client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    data = outgoing.read()
    for count in (0, 1, 5, len(data) // 2, len(data)):
        with socket.create_connection(("127.0.0.1", party.server.port), timeout=10) as client:
            client.sendall(data[:count])
    assert still_answers(party)


def test_handshakes_count_as_connections(authority: Authority) -> None:
    """With as many unfinished handshakes as connections are allowed, the next client is cut off.

    It is served once they have gone.
    """
    own = authority.issue("server")
    tls = ServerTls(own.certificate, own.key)
    with RunningServer(HttpSettings(max_connections=2, header_timeout_s=60), tls=tls) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        until(lambda: open_connections(server) == 2)
        assert is_cut_off(server, authority.client())
        for client in silent:
            client.close()
        until(lambda: not open_connections(server))
        assert ask(server, authority.client())[0] == 200


def test_the_last_place_is_served(authority: Authority) -> None:
    """A connection takes the place of its own handshake: the limit itself is still allowed."""
    own = authority.issue("server")
    tls = ServerTls(own.certificate, own.key)
    with RunningServer(HttpSettings(max_connections=1), tls=tls) as server:
        assert ask(server, authority.client())[0] == 200


def test_connections_are_forgotten(party: Party) -> None:
    """After clients have left, none counts as open."""
    for _ in range(5):
        assert still_answers(party)
    until(lambda: not open_connections(party.server))


def test_a_client_with_a_certificate(mutual: Party) -> None:
    """REST over both versions of HTTP and gRPC are open to a certificate of the authority."""
    alice = mutual.authority.issue("alice")
    assert ask(mutual.server, mutual.authority.client(alice))[0] == 200
    url = f"https://localhost:{mutual.server.port}"
    with httpx.Client(verify=mutual.authority.client(alice), http2=True) as client:
        assert client.post(url + INFER, content=GOOD).status_code == 200
    with channel(mutual, alice) as opened:
        request = infer_request("identity-fp32", {"x": np.ones((1, 2), np.float32)})
        assert outputs_of(infer(opened, request))["y"].tolist() == [[1, 1]]
    names = {context.principal.name for context in mutual.server.computer.contexts}
    assert names == {"alice"}


@pytest.mark.parametrize("kind", ["none", "stranger", "expired"])
def test_clients_that_cannot_be_trusted(mutual: Party, tmp_path: Path, kind: str) -> None:
    """No certificate, one of another authority, and an expired one are refused on both fronts."""
    issued = None
    if kind == "stranger":
        issued = Authority(tmp_path, "stranger").issue("alice")
    elif kind == "expired":
        issued = mutual.authority.issue("alice", days=-1)
    assert is_cut_off(mutual.server, mutual.authority.client(issued))
    with channel(mutual, issued) as opened, pytest.raises(grpc.RpcError) as refused:
        infer(opened, infer_request("identity-fp32", {"x": np.ones((1, 2), np.float32)}))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    good = mutual.authority.issue("bob")
    assert ask(mutual.server, mutual.authority.client(good))[0] == 200


def test_a_changed_certificate_is_taken_over(authority: Authority, tmp_path: Path) -> None:
    """New connections see the new certificate, open ones go on; broken files change nothing.

    The fault is told once, without what is in the files, and the next good pair is taken.
    """
    own = authority.issue("first", file="reloaded")
    tls = ServerTls(own.certificate, own.key)
    with RunningServer(tls=tls) as server:
        context = server.context
        assert context is not None
        assert context.reload() is None
        with open_tls(server, authority.client()) as kept:
            authority.issue("second", file="reloaded")
            assert context.reload() is None
            assert shown_name(server, authority) == "second"
            own.key.write_text("nonsense")
            error = context.reload()
            assert error is not None
            assert error.code == "invalid_settings"
            assert "nonsense" not in error.message
            assert context.reload() is None
            assert shown_name(server, authority) == "second"
            authority.issue("third", file="reloaded")
            assert context.reload() is None
            assert shown_name(server, authority) == "third"
            kept.sendall(LIVE)
            assert split_reply(read_all(kept))[0] == 200


def shown_name(server: RunningServer, authority: Authority) -> str:
    """Return the common name of the certificate that the server shows now."""
    with open_tls(server, authority.client()) as client:
        der = client.getpeercert(binary_form=True)
    assert der is not None
    (name,) = x509.load_der_x509_certificate(der).subject
    return str(name.value)


@pytest.mark.parametrize("closes", [False, True])
def test_a_client_that_does_not_read(authority: Authority, *, closes: bool) -> None:
    """A client that leaves a large answer unread is cut off after the body's time.

    Its last answer, too.
    """
    own = authority.issue("server")
    tls = ServerTls(own.certificate, own.key)
    with RunningServer(HttpSettings(body_timeout_s=0.5), tls=tls) as server:
        with open_tls(server, authority.client()) as client:
            client.sendall(large_request(closes=closes))
            until(lambda: not open_connections(server))
        assert ask(server, authority.client())[0] == 200


def large_request(*, closes: bool) -> bytes:
    """Return a request for much more than the buffers between client and server take."""
    request = binary_request(LARGE)
    return request if closes else request.replace(b"Connection: close\r\n", b"")


@pytest.mark.parametrize("drains", [False, True])
def test_a_client_that_reads_its_last_answer_slowly(authority: Authority, *, drains: bool) -> None:
    """It gets all of it, however long ago the server has closed, as without TLS."""
    own = authority.issue("server")
    with RunningServer(tls=ServerTls(own.certificate, own.key)) as server:
        running = server.server
        assert running is not None
        with open_tls(server, authority.client()) as client:
            client.sendall(large_request(closes=not drains))
            begun = client.recv(100)
            drained = server.begin(running.drain(30.0)) if drains else None
            time.sleep(3.0)
            _, headers, body = split_reply(begun + read_all(client))
            assert len(body) == int(headers["content-length"]) > LARGE.nbytes
            assert body.endswith(LARGE.tobytes())
            until(lambda: not open_connections(server))
        assert drained is None or drained.result(timeout=30) is None


def test_a_client_that_does_not_say_goodbye(party: Party) -> None:
    """A client that has all of its last answer and stays keeps no connection open."""
    with open_tls(party.server, party.authority.client()) as client:
        client.sendall(LIVE)
        assert split_reply(read_all(client))[0] == 200
        until(lambda: not open_connections(party.server))


def test_draining(authority: Authority) -> None:
    """A server that drains answers what it has accepted, and lets unfinished handshakes go."""
    own = authority.issue("server")
    with RunningServer(tls=ServerTls(own.certificate, own.key)) as server:
        server.computer.hold = True
        running = server.server
        assert running is not None
        with (
            socket.create_connection(("127.0.0.1", server.port)) as silent,
            open_tls(server, authority.client()) as client,
        ):
            client.sendall(post(INFER, GOOD, close=False))
            until(lambda: bool(server.computer.held))
            drained = server.begin(running.drain(20.0))
            until(lambda: open_connections(server) == 1)
            server.release()
            drained.result(timeout=30)
            assert split_reply(read_all(client))[0] == 200
            assert read_all(silent) == b""
