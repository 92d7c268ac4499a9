"""What a gateway refuses when its memory is short."""

from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import orjson
import pytest

from salver.core.settings import LimitSettings
from salver.gateway.limits.memory import gateway_guard
from salver.observe.meter import Meter
from tests.gateway.grpc.calls import infer_request, refusal, two_rows
from tests.gateway.inprocess import RunningServer, exchange_bytes, post, split_reply
from tests.gateway.test_gather import INFER, Clients, Engine, ask, body, warm

LARGE = post(INFER, orjson.dumps({"inputs": [{"name": "x"}], "padding": "x" * 100_000}))


class Short:
    """A server, and a guard of its memory whose measure is set by hand."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        assert server.server is not None
        access, ring = server.inference.access, server.ring
        self.guard = gateway_guard(
            server.server, access, ring, LimitSettings(), Meter(), "gateway-0"
        )

    def use(self, share: float) -> None:
        """Let so much of the memory be in use."""
        self.guard._share = lambda: share
        self.server.run(self.guard.check)

    def ask(self, request: bytes) -> tuple[int, str, str | None]:
        """Return status, code and Retry-After of one request."""
        status, fields, text = split_reply(exchange_bytes(self.server.port, request))
        return status, orjson.loads(text).get("code", ""), fields.get("retry-after")


@pytest.fixture
def short() -> Iterator[Short]:
    """Give a server whose memory can be made short."""
    with RunningServer(last=Engine()) as server:
        yield Short(server)


def test_large_bodies_are_refused_first(short: Short) -> None:
    """Then they get 503 with Retry-After over HTTP/1, HTTP/2 and gRPC; small ones are served."""
    short.use(0.93)
    assert short.ask(LARGE) == (503, "overloaded", "1")
    assert short.ask(post(INFER, body(10)))[0] == 200
    with httpx.Client(http1=False, http2=True) as client:
        url = f"http://127.0.0.1:{short.server.port}{INFER}"
        answer = client.post(url, content=LARGE.partition(b"\r\n\r\n")[2])
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    with grpc.insecure_channel(f"127.0.0.1:{short.server.port}") as channel:
        request = infer_request("identity-fp32", {"x": np.zeros((100, 500), np.float32)})
        assert refusal(channel, request) == (grpc.StatusCode.UNAVAILABLE, "overloaded")
    short.use(0.5)
    assert short.ask(LARGE)[1] == "invalid_tensor"


def test_then_every_inference(short: Short) -> None:
    """Every inference gets 503, together or alone; health does not; and all is well again."""
    clients = Clients(short.server, 6)
    warm(short.server)
    short.use(0.99)
    clients.send([ask(10 + n) for n in range(6)])
    answers = clients.read_all()
    assert {status for status, _, _ in answers} == {503}
    assert {orjson.loads(text)["code"] for _, _, text in answers} == {"overloaded"}
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    assert short.ask(live)[0] == 200
    with grpc.insecure_channel(f"127.0.0.1:{short.server.port}") as channel:
        request = infer_request("identity-fp32", {"x": two_rows([1, 1])})
        assert refusal(channel, request) == (grpc.StatusCode.UNAVAILABLE, "overloaded")
    assert short.server.inference.open_count == 0
    short.use(0.5)
    clients.together([ask(10 + n) for n in range(6)])
    assert {status for status, _, _ in clients.read_all()} == {200}
    clients.close()


def test_heads_are_forgotten_and_read_again(short: Short) -> None:
    """Shrinking frees what was remembered, and requests go on as before."""
    assert short.server.server is not None
    heads = short.server.server.heads_of("")
    assert heads is not None
    warm(short.server)
    assert heads._heads
    short.use(0.81)
    assert not heads._heads
    assert short.ask(post(INFER, body(10)))[0] == 200
