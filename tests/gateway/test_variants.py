"""An endpoint with several variants: every answer says which of them it came from."""

import random
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import msgspec
import orjson
import pytest

from salver.core.clock import ManualClock
from salver.core.routing import Routing
from salver.core.signature import Column, Signature, TensorSpec
from salver.gateway.evidence import EvidenceCounter
from salver.rollout.columns import Columns, encode_columns
from salver.rollout.tally import ERRORS, REFUSED, REQUESTS, Layout, Packed, unpack
from salver.wire.messages import EndpointPlan, Plan, VariantPlan
from tests.gateway.grpc.calls import infer_request, two_rows
from tests.gateway.grpc.test_gather import Together
from tests.gateway.inprocess import (
    PLAN,
    RunningServer,
    exchange_bytes,
    identity_signature,
    post,
    split_reply,
)
from tests.gateway.test_gather import Clients, Engine, body

NAME = "identity-fp32"
INFER = f"/v2/models/{NAME}/infer"
USER = Routing("header:X-User")


def variant(version: int, role: str, weight: int) -> VariantPlan:
    """Return a version that gives back what it gets."""
    return VariantPlan(
        f"{NAME}:{version}", role, NAME, str(version), "0" * 64, "test", weight, 7,
        identity_signature("FP32"), ("shared-0",),
    )  # fmt: skip


def get(path: str) -> bytes:
    """Return the bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()


def split(routing: Routing) -> Plan:
    """Return a plan in which half of the traffic goes to a canary."""
    variants = (variant(1, "primary", 5_000), variant(2, "canary", 5_000))
    both = EndpointPlan(NAME, variants, routing=routing, headers=routing.headers)
    others = tuple(endpoint for endpoint in PLAN.endpoints if endpoint.name != NAME)
    return msgspec.structs.replace(PLAN, endpoints=(*others, both))


@pytest.fixture
def engine() -> Engine:
    """Give a last handler that takes cohorts."""
    return Engine()


@pytest.fixture
def server(engine: Engine) -> Iterator[RunningServer]:
    """Give a server that draws a variant for each request."""
    with RunningServer(last=engine, plan=split(Routing())) as running:
        yield running


@pytest.fixture
def sticky(engine: Engine) -> Iterator[RunningServer]:
    """Give a server whose callers stick by a header field."""
    with RunningServer(last=engine, plan=split(USER)) as running:
        yield running


def single(server: RunningServer, *headers: str, path: str = INFER, sent: bytes = b"") -> str:
    """Ask by oneself and return which version answered, wherever that is said."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(post(path, sent or body(10), *headers))
        data = b""
        while part := client.recv(65536):
            data += part
    return version_of(server, *split_reply(data))


def version_of(server: RunningServer, status: int, headers: dict[str, str], text: bytes) -> str:
    """Return which version answered: header, body and id have to agree."""
    assert status == 200
    version = str(orjson.loads(text)["model_version"])
    assert headers["x-salver-variant"] == f"{NAME}:{version}"
    opened = server.ids.unseal(headers["x-salver-request-id"], NAME)
    assert opened is not None
    assert str(opened.version) == version
    return version


def test_a_request_alone_learns_its_variant(server: RunningServer) -> None:
    """Both variants answer, and each says so; a version that was asked for is another's epoch."""
    assert {single(server) for _ in range(40)} == {"1", "2"}
    assert single(server, path=f"/v2/models/{NAME}/versions/2/infer") == "2"


def test_the_members_of_a_turn_learn_theirs(server: RunningServer, engine: Engine) -> None:
    """Cohorts are parted by variant, and every id is its caller's own."""
    for _ in range(12):
        single(server)
    clients = Clients(server, 16)
    request = post(INFER, body(10), close=False)
    clients.send([request] * 16)
    answers = clients.read_all()
    versions = [version_of(server, *answer) for answer in answers]
    assert set(versions) == {"1", "2"}
    assert len({headers["x-salver-request-id"] for _, headers, _ in answers}) == 16
    told = [i for cohort in engine.cohorts for i in cohort.request_ids]
    assert {headers["x-salver-request-id"] for _, headers, _ in answers} == set(told)
    clients.close()


def test_callers_stick_alone_and_in_company(sticky: RunningServer, engine: Engine) -> None:
    """A caller's variant is the same whether its request came alone or with others."""
    users = [f"user-{number}" for number in range(8)]
    alone = {user: single(sticky, f"X-User: {user}") for user in users}
    assert set(alone.values()) == {"1", "2"}
    requests = [post(INFER, body(10), f"X-User: {user}", close=False) for user in users * 2]
    clients = Clients(sticky, 16)
    clients.send(requests)
    versions = [version_of(sticky, *answer) for answer in clients.read_all()]
    assert versions == [alone[user] for user in users * 2]
    assert sorted(len(cohort) for cohort in engine.cohorts) == [2] * 8
    clients.close()


def test_a_new_routing_holds_for_known_callers(sticky: RunningServer) -> None:
    """Heads that were read under another routing are looked at again."""
    clients = Clients(sticky, 4)
    requests = [
        post(INFER, body(10), "X-User: a", f"X-Team: {team}", close=False) for team in range(4)
    ]
    clients.send(requests)
    clients.read_all()
    routing = Routing("header:x-team")
    sticky.run(lambda: sticky.apply(split(routing)))
    alone = [single(sticky, "X-User: a", f"X-Team: {team}") for team in range(4)]
    for _ in range(2):
        clients.together(requests)
        versions = [version_of(sticky, *answer) for answer in clients.read_all()]
        assert versions == alone
    clients.close()


def test_calls_over_grpc_learn_their_variant(sticky: RunningServer) -> None:
    """Alone or together, a call's metadata say who answered; its own metadata make it stick."""

    def version(future: Any) -> str:
        answer = future.result(timeout=20)
        fields = dict(future.initial_metadata())
        assert fields["x-salver-variant"] == f"{NAME}:{answer.model_version}"
        opened = sticky.ids.unseal(fields["x-salver-request-id"], NAME)
        assert opened is not None
        assert str(opened.version) == answer.model_version
        return str(answer.model_version)

    with grpc.insecure_channel(f"127.0.0.1:{sticky.port}") as channel:
        together = Together(sticky, channel)
        request = infer_request(NAME, {"x": two_rows([1, 1])})
        for user in ("a", "b", "c", "d"):
            known = single(sticky, f"X-User: {user}")
            futures = together.call([request] * 6, metadata=(("x-user", user),))
            assert {version(future) for future in futures} == {known}
        futures = together.call([request] * 24)
        assert {version(future) for future in futures} == {"1", "2"}


def test_a_shadow_is_not_shown_and_does_not_answer(engine: Engine) -> None:
    """Whatever protocol asks: it is a version that the endpoint does not serve."""
    shadow = msgspec.structs.replace(variant(2, "shadow", 0), sample=10_000)
    endpoint = EndpointPlan(NAME, (variant(1, "primary", 10_000), shadow))
    plan = msgspec.structs.replace(PLAN, endpoints=(endpoint,))
    model = f"/v2/models/{NAME}"
    with RunningServer(last=engine, plan=plan) as running:
        assert single(running) == "1"
        for message in (
            post(f"{model}/versions/2/infer", body(10)),
            post(f"/v1/models/{NAME}/versions/2:predict", b'{"instances": [[1]]}'),
            get(f"{model}/versions/2"),
            get(f"{model}/versions/2/ready"),
            get(f"{model}/versions/2/config"),
        ):
            status, _, text = split_reply(exchange_bytes(running.port, message))
            assert (status, orjson.loads(text)["code"]) == (404, "version_not_found"), message
        _, _, text = split_reply(exchange_bytes(running.port, get(model)))
        assert orjson.loads(text)["versions"] == ["1"]
        for path, name in (
            (f"{model}/stats", "model_stats"),
            (f"/v1/models/{NAME}", "model_version_status"),
        ):
            _, _, text = split_reply(exchange_bytes(running.port, get(path)))
            assert [entry["version"] for entry in orjson.loads(text)[name]] == ["1"], path
        _, _, text = split_reply(exchange_bytes(running.port, post("/v2/repository/index", b"{}")))
        assert [entry["version"] for entry in orjson.loads(text)] == ["1"]


def test_what_only_the_canary_refuses_counts_against_it(engine: Engine) -> None:
    """Its range is looked at after chance has picked it; what is no request at all counts nowhere.

    From the body of a request to what control is told of both arms.
    """
    columns = (Column("age", maximum=5.0),)
    narrow = Signature(
        (TensorSpec("x", "FP32", (-1, 1), columns),), (TensorSpec("y", "FP32", (-1, 1)),)
    )
    variants = tuple(
        msgspec.structs.replace(one, signature=signature)
        for one, signature in (
            (
                variant(1, "primary", 5_000),
                msgspec.structs.replace(narrow, inputs=(TensorSpec("x", "FP32", (-1, 1)),)),
            ),
            (variant(2, "canary", 5_000), narrow),
        )
    )
    layout = Columns(Layout(), Layout())
    endpoint = EndpointPlan(NAME, variants, validation="reject", evidence=encode_columns(layout))
    plan = msgspec.structs.replace(PLAN, endpoints=(endpoint,))
    counter = EvidenceCounter(ManualClock(), random.Random(0))
    counter.apply(plan)
    wide = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [9]}]}'
    garbage = wide.replace(b'"x"', b'"z"')
    codes: Counter[str] = Counter()
    with RunningServer(last=engine, plan=plan) as running:
        running.ring.subscribe(counter)
        for sent in [wide, garbage, b"{"] * 30:
            _, _, text = split_reply(exchange_bytes(running.port, post(INFER, sent)))
            codes[orjson.loads(text).get("code", "")] += 1
        running.run(running.ring.drain)
    sums = {
        message.arm: unpack(Packed(message.width, message.rows, message.bins)).rows.sum(axis=0)
        for message in counter.messages()
    }
    assert codes["value_rejected"] + codes["unknown_input"] + codes[""] == 60
    assert 0 < codes["value_rejected"] < 30
    both = sums["canary"] + sums["primary"]
    assert (both[REQUESTS], both[ERRORS]) == (60, 0)
    assert both[REFUSED] == 30 + codes["value_rejected"]
    assert sums["canary"][REFUSED] == sums["canary"][REQUESTS]
    assert sums["primary"][REFUSED] == sums["primary"][REQUESTS] - codes[""]
