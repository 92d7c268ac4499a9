"""Calls of one turn travel as a cohort, and each is answered as if it had come alone."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.core.request import InferenceRequest
from salver.core.settings import HttpSettings
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.gateway.grpc.plans import Plans
from salver.gateway.grpc.schema import message_class
from salver.wire.messages import EndpointPlan, VariantPlan
from tests.gateway.grpc.calls import SERVICE, infer, infer_request, outputs_of, two_rows
from tests.gateway.inprocess import PLAN, RunningServer, identity_signature, until
from tests.gateway.test_gather import Engine, idle

MODEL = "identity-fp32"
IDENTITY = identity_signature("FP32")


class Together:
    """Calls on one connection that reach the server within one turn of its loop."""

    def __init__(self, server: RunningServer, channel: grpc.Channel) -> None:
        self._server = server
        self._invoke = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=message_class("inference.ModelInferResponse").FromString,
        )
        # The first call shows the server the message, and the signature check its form.
        infer(channel, infer_request(MODEL, {"x": two_rows([0, 0])}))

    def call(self, requests: list[Any], **options: Any) -> list[Any]:
        """Begin all calls while the server looks elsewhere."""
        held = self._server.busy()
        # Else the first would be sent at once, since nobody else asked a moment ago.
        self._server.turn.alone = False
        futures = [self._invoke.future(request, timeout=20, **options) for request in requests]
        # The library's threads need a moment to hand everything over.
        time.sleep(0.1)
        held.set()
        return futures


@pytest.fixture
def engine() -> Engine:
    """Give a last handler that takes cohorts."""
    return Engine()


@pytest.fixture
def server(engine: Engine) -> Iterator[RunningServer]:
    """Give a server in front of it."""
    with RunningServer(last=engine) as running:
        yield running


@pytest.fixture
def together(server: RunningServer) -> Iterator[Together]:
    """Give a connection to it."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Together(server, channel)


def ask(value: float) -> Any:
    """Return a call's message."""
    return infer_request(MODEL, {"x": two_rows([value, value])})


def renamed(version: int, name: str) -> VariantPlan:
    """Return a version whose input has a name of its own."""
    signature = Signature((TensorSpec(name, "FP32", (-1, -1)),), IDENTITY.outputs)
    return VariantPlan(
        f"renamed:{version}", "primary", "renamed", str(version), "0" * 64, "test", 5_000, 1,
        signature, ("shared-0",),
    )  # fmt: skip


def ask_one_array(value: float) -> Any:
    """Return a call's message that is one array, whatever the model calls it."""
    request = infer_request("renamed", {"input-1": two_rows([value, value])})
    request.parameters["content_type"].string_param = "np"
    return request


def value_of(future: "Future[Any]") -> float:
    """Return what a call was answered."""
    return float(outputs_of(future.result(timeout=20))["y"][0, 0])


def test_messages_with_content_types_teach_nothing(engine: Engine) -> None:
    """Two versions name their input differently; one does not tell how to read for the other."""
    both = EndpointPlan("renamed", (renamed(1, "x"), renamed(2, "z")))
    plan = msgspec.structs.replace(PLAN, endpoints=(*PLAN.endpoints, both))
    with (
        RunningServer(last=engine, plan=plan) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        together = Together(server, channel)
        for _ in range(2):
            futures = together.call([ask_one_array(n) for n in range(12)])
            answers = [future.result(timeout=20) for future in futures]
            found = [float(outputs_of(answer)["y"][0, 0]) for answer in answers]
            assert found == list(range(12))
            assert {answer.model_version for answer in answers} == {"1", "2"}


def test_one_turn_is_one_cohort(together: Together, engine: Engine, server: RunningServer) -> None:
    """What comes together goes together, and values and ids stay each one's own."""
    futures = together.call([ask(n) for n in range(8)])
    assert [value_of(future) for future in futures] == list(range(8))
    assert sum(len(cohort) for cohort in engine.cohorts) == 8
    assert len(engine.cohorts) < 4
    ids = [dict(future.initial_metadata())["x-salver-request-id"] for future in futures]
    assert len(set(ids)) == 8
    assert sorted(ids) == sorted(i for cohort in engine.cohorts for i in cohort.request_ids)
    assert idle(server)
    server.run(server.ring.drain)
    recorded = {one.context.request_id for one in server.exchanges if one.protocol == "grpc"}
    assert set(ids) <= recorded


def test_deadlines_and_traces_stay_with_their_calls(together: Together, engine: Engine) -> None:
    """Each member has its client's own deadline and trace."""
    engine.hold = True
    traces = [f"00-{n:032x}-{n:016x}-01" for n in range(1, 5)]
    futures: list[Any] = []
    held = together._server.busy()
    together._server.turn.alone = False
    for n, seconds in enumerate((5, 50, 500, 11)):
        futures.append(
            together._invoke.future(ask(n), timeout=seconds, metadata=[("traceparent", traces[n])])
        )
    time.sleep(0.1)
    held.set()
    until(lambda: sum(len(cohort) for cohort in engine.cohorts) == 4)
    seen: dict[str, float] = {}
    for cohort in engine.cohorts:
        first_ns = cohort.context.deadline_ns
        assert first_ns == min(cohort.deadlines_ns)
        for index in range(len(cohort)):
            _, context, _ = cohort.member(index)
            left_s = (context.deadline_ns - cohort.context.arrival_ns) / 1e9
            seen[context.traceparent or ""] = left_s
    assert list(seen) == traces
    # The library rounds what it sends.
    for left_s, asked_s in zip(seen.values(), (5, 50, 500, 11), strict=True):
        assert abs(left_s - asked_s) < 2
    for future in futures:
        future.cancel()


def test_one_client_gives_up(together: Together, engine: Engine, server: RunningServer) -> None:
    """Its call is cancelled; the others of the cohort get their answers."""
    engine.hold = True
    futures = together.call([ask(n) for n in range(6)])
    until(lambda: sum(len(cohort) for cohort in engine.cohorts) == 6)
    futures[2].cancel()
    until(lambda: [context.cancelled for _, context, _ in engine.apart].count(True) == 1)
    server.run(engine.release)
    assert [value_of(futures[n]) for n in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]
    assert idle(server)


@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=8))
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_both_ways_agree(together: Together, values: list[float]) -> None:
    """Gathered or not, the messages are the same to the byte."""
    gathered = [f.result(timeout=20) for f in together.call([ask(value) for value in values])]
    with (
        RunningServer(HttpSettings(gather=False), last=Engine()) as plain,
        grpc.insecure_channel(f"127.0.0.1:{plain.port}") as channel,
    ):
        alone = [infer(channel, ask(value)) for value in values]
    assert [one.SerializeToString(deterministic=True) for one in gathered] == [
        one.SerializeToString(deterministic=True) for one in alone
    ]


def body_of(message: Any) -> bytes:
    """Return a call's body."""
    data: bytes = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


def learnt(message: Any, change: Callable[[InferenceRequest], None] = lambda _: None) -> Plans:
    """Return plans that were shown one message."""
    tensors = [Tensor("x", "FP32", (1, 2), bytes(message.raw_input_contents[0]))]
    request = InferenceRequest(message.model_name, tensors)
    change(request)
    plans = Plans()
    plans.learn(body_of(message), request)
    return plans


def test_only_the_tensor_may_differ() -> None:
    """A message is read by another only when all bytes before its tensor are the same."""
    plans = learnt(ask(1))
    found = plans.find(body_of(ask(7)))
    assert found is not None
    plan, payload = found
    assert (plan.target.endpoint, payload) == (MODEL, two_rows([7, 7]).tobytes())
    other = infer_request("identity-fp16", {"x": two_rows([1, 1])})
    wide = infer_request(MODEL, {"x": two_rows([1, 1, 1])})
    tall = infer_request(MODEL, {"x": np.ones((2, 1), np.float32)})
    named = infer_request(MODEL, {"x": two_rows([1, 1])}, id="a")
    for message in (other, wide, tall, named):
        assert plans.find(body_of(message)) is None


def test_unusual_messages_are_not_learnt() -> None:
    """Not with outputs or parameters, compressed, or with a tensor that is not the end of it."""
    body = body_of(ask(3))

    def outputs(request: InferenceRequest) -> None:
        request.outputs = ("y",)

    def parameters(request: InferenceRequest) -> None:
        request.parameters = {"priority": 1}

    for change in (outputs, parameters):
        assert learnt(ask(1), change).find(body) is None
    tensors = [Tensor("x", "FP32", (1, 2), bytes(8))]
    for odd in (b"\1" + body[1:], body[:-9] + body[-8:], body + bytes(8)):
        plans = Plans()
        plans.learn(odd, InferenceRequest(MODEL, tensors))
        assert plans.find(odd) is None


def test_memory_is_bounded() -> None:
    """However many different messages come, no more than so many are kept."""
    plans = Plans()
    for number in range(5000):
        message = infer_request(f"m{number}", {"x": two_rows([1, 1])})
        plans.learn(
            body_of(message),
            InferenceRequest(f"m{number}", [Tensor("x", "FP32", (1, 2), bytes(8))]),
        )
    assert len(plans._plans) <= 1024
