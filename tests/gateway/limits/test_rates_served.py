"""Rates as clients meet them: over REST, HTTP/2 and gRPC, one by one and together."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import httpx
import orjson
import pytest
import yaml

from salver.core.context import ANONYMOUS
from salver.core.request import RequestForm
from salver.core.settings import HttpSettings, LimitSettings
from salver.gateway.http.message import HttpMessage, Outlet
from salver.gateway.lot import Kind
from salver.gateway.oip.gather import MessageLot
from salver.gateway.oip.reading import Target
from tests.gateway.grpc.calls import SERVICE, infer_request, refusal, two_rows
from tests.gateway.grpc.test_gather import Together
from tests.gateway.inprocess import RunningServer, exchange_bytes, post, read_all, split_reply
from tests.gateway.test_auth import ALICE, BOB, entry
from tests.gateway.test_gather import INFER, Clients, Engine, ask, body

SLOW_PER_S = 0.001


def limited(burst: int, **more: HttpSettings | Engine) -> RunningServer:
    """Return a server whose callers get so many answers and then none for a long time."""
    settings, last = more.get("settings"), more.get("last")
    assert isinstance(settings, HttpSettings | None)
    assert isinstance(last, Engine | None)
    limits = LimitSettings(rate_per_s=SLOW_PER_S, burst=burst, address_groups=4096)
    return RunningServer(settings, last=last, limits=limits)


def test_the_answer_over_rest(tmp_path: Path) -> None:
    """Over the rate it is 429 quota_exceeded with Retry-After; another caller is served."""
    path = tmp_path / "keys.yaml"
    lines = [entry(ALICE, principal="alice", rate=0.01, burst=2), entry(BOB, principal="bob")]
    path.write_text(yaml.safe_dump({"keys": lines}))
    with RunningServer(keys=path) as server:
        seen = []
        for key in (ALICE, ALICE, ALICE, BOB, ALICE):
            reply = exchange_bytes(server.port, post(INFER, body(10), f"X-API-Key: {key}"))
            status, fields, text = split_reply(reply)
            seen.append((status, fields.get("retry-after"), orjson.loads(text).get("code")))
    assert [status for status, _, _ in seen] == [200, 200, 429, 200, 429]
    assert seen[2][2] == "quota_exceeded"
    assert 99 <= int(seen[2][1] or 0) <= 100


def test_the_named_second_is_late_enough() -> None:
    """Retry-After is whole seconds, rounded up: a client that waits as long is served."""
    with RunningServer(limits=LimitSettings(rate_per_s=0.55, burst=1)) as server:
        assert split_reply(exchange_bytes(server.port, post(INFER, body(10))))[0] == 200
        status, fields, _ = split_reply(exchange_bytes(server.port, post(INFER, body(10))))
        assert (status, fields["retry-after"]) == (429, "2")
        time.sleep(int(fields["retry-after"]))
        assert split_reply(exchange_bytes(server.port, post(INFER, body(10))))[0] == 200


def test_a_large_body_is_not_read() -> None:
    """A refused request is refused for its rate, whatever its body says."""
    with limited(1) as server:
        assert split_reply(exchange_bytes(server.port, post(INFER, body(10))))[0] == 200
        broken = post(INFER, b"{" * 100_000)
        assert split_reply(exchange_bytes(server.port, broken))[0] == 429


def test_probes_are_not_counted() -> None:
    """Metadata and health can be asked when nothing else can."""
    with limited(1) as server:
        exchange_bytes(server.port, post(INFER, body(10)))
        for path in ("/v2/health/ready", "/v2/models/two"):
            asked = f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode()
            assert split_reply(exchange_bytes(server.port, asked))[0] == 200


@pytest.mark.parametrize("gather", [True, False])
def test_as_many_of_those_that_come_together_pass(*, gather: bool) -> None:
    """Eight at once with room for five: five answers and three refusals, whole or one by one.

    Those that pass are still one cohort.
    """
    engine = Engine()
    with limited(7, settings=HttpSettings(gather=gather), last=engine) as server:
        clients = Clients(server, 8)
        for _ in range(2):
            clients.sockets[0].sendall(ask(10, id="caller-0"))
            assert clients.read(0)[0] == 200
        clients.together([ask(10 + n, id=f"caller-{n}") for n in range(8)])
        answers = clients.read_all()
        clients.close()
        assert server.inference.open_count == 0
    assert sorted(status for status, _, _ in answers) == [200] * 5 + [429] * 3
    for n, (status, fields, text) in enumerate(answers):
        document = orjson.loads(text)
        if status == 200:
            assert document["id"] == f"caller-{n}"
            assert document["outputs"][0]["data"] == [10 + n] * 2
        else:
            assert document["code"] == "quota_exceeded"
            assert int(fields["retry-after"]) > 900
    # A busy machine may read them in two turns, of which a small one is no cohort.
    gathered = sum(len(cohort) for cohort in engine.cohorts)
    assert 3 <= gathered <= 5 if gather else gathered == 0


def test_those_that_stay_keep_what_is_theirs() -> None:
    """When a part of what was gathered is taken, the rest is still each one's own."""
    form = RequestForm((("x", "FP32", (1, 1)),), None, 4)
    with RunningServer() as server:
        lot = MessageLot(server.inference, Kind(Target("two", None), ANONYMOUS, form))
        messages = [HttpMessage(cast(Outlet, None), number) for number in range(4)]
        lot.seats, lot.payloads = list(messages), [b"0", b"1", b"2", b"3"]
        lot.caller_ids = ["0", "1", "2", None]
        assert lot.take(3) == (messages[:3], [b"0", b"1", b"2"], ["0", "1", "2"])
        assert lot.take(1) == (messages[3:], [b"3"], [None])
        assert not any((lot.seats, lot.payloads, lot.caller_ids))


def test_over_http2() -> None:
    """REST over HTTP/2 counts towards the same rate and is answered in the same way."""
    with limited(1) as server, httpx.Client(http1=False, http2=True) as client:
        url = f"http://127.0.0.1:{server.port}{INFER}"
        assert client.post(url, content=body(10)).status_code == 200
        refused = client.post(url, content=body(10))
        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
        assert int(refused.headers["retry-after"]) > 900


@pytest.fixture
def engine() -> Engine:
    """Give a last handler that takes cohorts."""
    return Engine()


@pytest.fixture
def channel(engine: Engine) -> Iterator[tuple[RunningServer, grpc.Channel]]:
    """Give a server that answers four times, and a channel to it."""
    with (
        limited(4, last=engine) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as opened,
    ):
        yield server, opened


def test_over_grpc(channel: tuple[RunningServer, grpc.Channel], engine: Engine) -> None:
    """Over the rate it is RESOURCE_EXHAUSTED with the code and the time to wait.

    Of calls that come together as many pass as may.
    """
    server, opened = channel
    together = Together(server, opened)
    requests = [infer_request("identity-fp32", {"x": two_rows([n, n])}) for n in range(5)]
    calls = together.call(requests)
    codes = sorted(call.code().name for call in calls)
    assert codes == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"] * 2
    assert sum(len(cohort) for cohort in engine.cohorts) <= 3
    for call in calls:
        if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            trailers = dict(call.trailing_metadata())
            assert trailers["x-salver-code"] == "quota_exceeded"
            assert int(trailers["grpc-retry-pushback-ms"]) > 900_000
    assert refusal(opened, requests[0]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota_exceeded")
    assert server.inference.open_count == 0


def test_a_stream_of_inferences_counts_each(
    channel: tuple[RunningServer, grpc.Channel],
) -> None:
    """On a stream each inference counts, and those over the rate get an error of their own."""
    _, opened = channel
    request = infer_request("identity-fp32", {"x": two_rows([1, 1])})
    answer = opened.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=bytes,
    )(iter([request] * 6), timeout=20)
    texts = list(answer)
    assert len(texts) == 6
    assert sum(b"quota_exceeded" in text for text in texts) == 2


def from_address(server: RunningServer, address: str) -> int:
    """Ask from an address of this machine; returns the status."""
    with socket.create_connection(
        ("127.0.0.1", server.port), timeout=10, source_address=(address, 0)
    ) as client:
        client.sendall(post(INFER, body(10)))
        return split_reply(read_all(client))[0]


def test_callers_without_a_name_are_told_apart_by_address() -> None:
    """Who floods from one address uses up nothing of what others may ask."""
    with limited(2) as server:
        flood = [from_address(server, "127.0.0.1") for _ in range(5)]
        assert flood == [200, 200, 429, 429, 429]
        assert [from_address(server, "127.0.0.2") for _ in range(3)] == [200, 200, 429]


def test_without_groups_they_are_one_caller() -> None:
    """With limits.address_groups 0 the address does not matter."""
    limits = LimitSettings(rate_per_s=SLOW_PER_S, burst=2, address_groups=0)
    with RunningServer(limits=limits) as server:
        asked = [from_address(server, f"127.0.0.{n}") for n in (1, 2, 3)]
        assert asked == [200, 200, 429]
