"""Requests of one turn travel as a cohort, and each is answered as if it had come alone."""

import hashlib
import math
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.core.cohort import MAX_MEMBERS, Cohort, Piece
from salver.core.context import RequestContext
from salver.core.errors import ModelFailed
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse, JointResponse
from salver.core.settings import HttpSettings
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.gateway.http.connection import HttpConnection
from salver.gateway.http.message import HttpMessage
from salver.gateway.oip.reading import Reading
from tests.gateway.inprocess import RunningServer, post, split_reply, until

INFER = "/v2/models/identity-fp32/infer"
TWO = "/v2/models/two/infer"


class Engine:
    """Last handler that takes cohorts; answers with the inputs of each, when it is told to.

    ``spoil`` may change the values on their way back; ``fault`` is raised instead of an answer.
    """

    def __init__(self) -> None:
        self.cohorts: list[Cohort] = []
        self.singles: list[tuple[InferenceRequest, RequestContext]] = []
        self.apart: list[tuple[InferenceRequest, RequestContext, Responder]] = []
        self.spoil: Callable[[Any], Any] = lambda values: values
        self.fault: Exception | None = None
        self.hold = False
        self.piece = MAX_MEMBERS

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer at once, or keep."""
        self.singles.append((request, context))
        if self.fault is not None:
            raise self.fault
        if self.hold:
            self.apart.append((request, context, responder))
        else:
            self.answer_one(request, responder)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Keep cohorts, and answer unless told to hold."""
        if self.fault is not None:
            raise self.fault
        for cohort in cohorts:
            cohort.when_apart = lambda cohort=cohort: self.take_apart(cohort)
            self.cohorts.append(cohort)
            if not self.hold:
                self.answer(cohort)

    def take_apart(self, cohort: Cohort) -> None:
        """Hold each member by itself."""
        self.apart += cohort.take_apart()

    def answer(self, cohort: Cohort) -> None:
        """Answer a cohort in pieces."""
        values = np.frombuffer(b"".join(cohort.payloads), np.float32).reshape(len(cohort), -1)
        values = self.spoil(values.copy())
        for start in range(0, len(cohort), self.piece):
            stop = min(start + self.piece, len(cohort))
            tensor = Tensor.from_array("y", values[start:stop])
            timings = [Timing(queue_ns=n) for n in range(start, stop)]
            cohort.audience.answer(
                [Piece(cohort, start, stop)], JointResponse([tensor], 1, timings)
            )

    def answer_one(self, request: InferenceRequest, responder: Responder) -> None:
        """Answer a single request."""
        values = np.concatenate([tensor.array().reshape(1, -1) for tensor in request.inputs], 1)
        responder.send(InferenceResponse([Tensor.from_array("y", self.spoil(values.copy()))]))

    def release(self) -> None:
        """Answer everything that was held."""
        self.hold = False
        apart, self.apart = self.apart, []
        for request, context, responder in apart:
            if not context.cancelled:
                self.answer_one(request, responder)
        for cohort in self.cohorts:
            if not cohort.is_apart:
                self.answer(cohort)


class Clients:
    """Connections whose requests reach the server within one turn of its loop."""

    def __init__(self, server: RunningServer, count: int) -> None:
        self.server = server
        self.sockets = [
            socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(count)
        ]
        for client in self.sockets:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, requests: Sequence[bytes]) -> None:
        """Make the heads known to the server, then send all while it looks elsewhere."""
        for request in requests:
            head, _, body = request.partition(b"\r\n\r\n")
            for _ in range(2):
                self.sockets[0].sendall(head + b"\r\n\r\n" + b"x" * len(body))
                self.read(0)
        self.together(requests)

    def together(self, requests: Sequence[bytes]) -> None:
        """Send one request on each connection; all are read in one turn of the server's loop."""
        held = self.server.busy()
        # Else the first would be sent at once, since nobody else asked a moment ago.
        self.server.turn.alone = False
        for client, request in zip(self.sockets, requests, strict=True):
            client.sendall(request)
        # The kernel needs a moment to hand everything over.
        time.sleep(0.02)
        held.set()

    def read(self, index: int) -> tuple[int, dict[str, str], bytes]:
        """Read one answer."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(index)
        status, headers, body = split_reply(data)
        while len(body) < int(headers["content-length"]):
            body += self._more(index)
        return status, headers, body

    def _more(self, index: int) -> bytes:
        part = self.sockets[index].recv(65536)
        assert part
        return part

    def read_all(self) -> list[tuple[int, dict[str, str], bytes]]:
        """Read one answer from each."""
        return [self.read(index) for index in range(len(self.sockets))]

    def close(self) -> None:
        """Leave."""
        for client in self.sockets:
            client.close()


def body(value: float, **more: object) -> bytes:
    """Return a body with one row; the text is as long for all values from 10 to 99."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, value]}
    return orjson.dumps({"inputs": [item], **more})


def ask(value: float, **more: object) -> bytes:
    """Return a request that keeps its connection."""
    return post(INFER, body(value, **more), close=False)


@pytest.fixture
def engine() -> Engine:
    """Give a last handler that takes cohorts."""
    return Engine()


@pytest.fixture
def server(engine: Engine) -> Iterator[RunningServer]:
    """Give a server in front of it."""
    with RunningServer(last=engine) as running:
        yield running


def warm(server: RunningServer) -> None:
    """Let the signature check see the form, which it wants to know before it passes cohorts."""
    clients = Clients(server, 1)
    clients.sockets[0].sendall(ask(10))
    assert clients.read(0)[0] == 200
    clients.close()


def test_one_turn_is_one_cohort(server: RunningServer, engine: Engine) -> None:
    """What comes together goes together; ids, values and callers' ids stay each one's own."""
    warm(server)
    clients = Clients(server, 8)
    clients.send([ask(10 + n, id=f"caller-{n}") for n in range(8)])
    answers = clients.read_all()
    assert [len(cohort) for cohort in engine.cohorts] == [8]
    documents = [orjson.loads(text) for _, _, text in answers]
    assert [one["outputs"][0]["data"] for one in documents] == [[10 + n] * 2 for n in range(8)]
    assert [one["id"] for one in documents] == [f"caller-{n}" for n in range(8)]
    ids = [headers["x-salver-request-id"] for _, headers, _ in answers]
    assert ids == engine.cohorts[0].request_ids
    assert len(set(ids)) == 8
    assert {headers["x-salver-variant"] for _, headers, _ in answers} == {"identity-fp32:1"}
    clients.close()


@given(
    values=st.lists(st.integers(10, 99), min_size=3, max_size=9),
    ids=st.lists(st.sampled_from([None, "a", "é"]), min_size=9, max_size=9),
    piece=st.integers(1, 9),
)
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_both_ways_agree(
    server: RunningServer, engine: Engine, values: list[int], ids: list[str | None], piece: int
) -> None:
    """Gathered or not, in one piece or several, the bodies are the same to the byte."""
    warm(server)
    requests = [
        ask(value, **({} if name is None else {"id": name}))
        for value, name in zip(values, ids, strict=False)
    ]
    engine.piece = piece
    gathered = Clients(server, len(requests))
    gathered.send(requests)
    answers = gathered.read_all()
    gathered.close()
    assert engine.cohorts
    with RunningServer(HttpSettings(gather=False), last=Engine()) as plain:
        alone = Clients(plain, len(requests))
        alone.send(requests)
        expected = alone.read_all()
        alone.close()
    assert [(status, text) for status, _, text in answers] == [
        (status, text) for status, _, text in expected
    ]
    assert [sorted(headers) for _, headers, _ in answers] == [
        sorted(headers) for _, headers, _ in expected
    ]


def test_two_inputs_and_two_forms(server: RunningServer, engine: Engine) -> None:
    """Inputs lie back to back in a member; requests of another form are another cohort."""
    warm(server)

    def two(first: float, second: float) -> bytes:
        inputs = [
            {"name": name, "datatype": "FP32", "shape": [1], "data": [value]}
            for name, value in (("a", first), ("b", second))
        ]
        return post(TWO, orjson.dumps({"inputs": inputs}), close=False)

    clients = Clients(server, 1)
    clients.send([two(1, 2)])
    assert clients.read(0)[0] == 200
    clients.close()
    mixed = Clients(server, 8)
    mixed.send([two(10 + n, 20 + n) if n % 2 else ask(30 + n) for n in range(8)])
    data = [orjson.loads(text)["outputs"][0]["data"] for _, _, text in mixed.read_all()]
    assert data == [[10 + n, 20 + n] if n % 2 else [30 + n] * 2 for n in range(8)]
    assert sorted(len(cohort) for cohort in engine.cohorts) == [4, 4]
    mixed.close()


def test_unusual_ones_in_between(server: RunningServer, engine: Engine) -> None:
    """Broken JSON, parameters and wrong shapes among others are answered by themselves."""
    warm(server)
    odd = [
        post(INFER, b"{" + b" " * 30, close=False),
        ask(11, parameters={"priority": 1}),
        post(INFER, body(12).replace(b"[1,2]", b"[2,2]"), close=False),
    ]
    clients = Clients(server, 6)
    clients.send([ask(20), odd[0], ask(21), odd[1], ask(22), odd[2]])
    answers = clients.read_all()
    assert [status for status, _, _ in answers] == [200, 400, 200, 200, 200, 400]
    assert orjson.loads(answers[1][2])["code"] == "invalid_json"
    assert [len(cohort) for cohort in engine.cohorts] == [3]
    clients.close()


def test_not_a_number_fails_alone(server: RunningServer, engine: Engine) -> None:
    """An answer that JSON cannot carry is its own caller's error."""
    warm(server)

    def spoil(values: Any) -> Any:
        values[values[:, 0] == 12] = math.nan
        return values

    engine.spoil = spoil
    clients = Clients(server, 4)
    clients.send([ask(10 + n) for n in range(4)])
    answers = clients.read_all()
    assert [status for status, _, _ in answers] == [200, 200, 500, 200]
    assert orjson.loads(answers[2][2])["code"] == "non_finite_output"
    assert idle(server)
    clients.close()


def idle(server: RunningServer) -> bool:
    """Tell whether every request is accounted for, within a while."""
    deadline = time.monotonic() + 10
    inference = server.inference
    while inference.open_count and time.monotonic() < deadline:
        time.sleep(0.001)
    return inference.open_count == 0


def test_one_client_leaves(server: RunningServer, engine: Engine) -> None:
    """Its request is cancelled and counted so; the others of the cohort get their answers."""
    warm(server)
    engine.hold = True
    clients = Clients(server, 4)
    clients.send([ask(10 + n) for n in range(4)])
    until(lambda: len(engine.cohorts) == 1)
    clients.sockets[1].close()
    until(lambda: [context.cancelled for _, context, _ in engine.apart].count(True) == 1)
    assert engine.cohorts[0].is_apart
    server.run(engine.release)
    for index in (0, 2, 3):
        status, _, text = clients.read(index)
        assert (status, orjson.loads(text)["outputs"][0]["data"]) == (200, [10 + index] * 2)
    assert idle(server)
    server.run(server.ring.drain)
    assert [one.code for one in server.exchanges].count("cancelled") == 1
    clients.close()


def test_a_client_leaves_before_the_turn_ends(server: RunningServer, engine: Engine) -> None:
    """A request whose client is gone by then is not sent on."""
    warm(server)
    clients = Clients(server, 4)
    add, left = server.gatherer.add, 0

    def leave_after(message: HttpMessage, reading: Reading) -> None:
        """Lose the third connection right after its request was gathered."""
        nonlocal left
        add(message, reading)
        left += 1
        if left == 3:
            cast(HttpConnection, message.outlet).connection_lost(None)

    clients.send([ask(10 + n) for n in range(4)])
    clients.read_all()
    engine.cohorts.clear()
    server.routes._gather = leave_after
    clients.together([ask(20 + n) for n in range(4)])
    for index in (0, 1, 3):
        assert orjson.loads(clients.read(index)[2])["outputs"][0]["data"] == [20 + index] * 2
    assert [len(cohort) for cohort in engine.cohorts] == [3]
    assert idle(server)
    clients.close()


def test_a_fault_is_answered(server: RunningServer, engine: Engine) -> None:
    """When a handler raises, every caller is told so, and the next ones are served."""
    warm(server)
    clients = Clients(server, 5)
    engine.fault = RuntimeError("odd")
    clients.send([ask(10 + n) for n in range(5)])
    assert {orjson.loads(text)["code"] for _, _, text in clients.read_all()} == {"internal"}
    engine.fault = None
    assert idle(server)
    clients.sockets[0].sendall(ask(10))
    assert clients.read(0)[0] == 200
    clients.close()


class OneByOne:
    """Last handler that cannot take cohorts whole, and has a fault at the third request."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer with the inputs."""
        del context
        self.asked += 1
        if self.asked == 3 + 1:
            raise RuntimeError("odd")
        values = request.inputs[0].array()
        responder.send(InferenceResponse([Tensor.from_array("y", values)]))


def test_a_fault_in_the_middle_of_a_cohort() -> None:
    """When a handler raises for one member of a cohort taken apart, the others are answered."""
    with RunningServer(last=OneByOne()) as server:
        warm(server)
        clients = Clients(server, 6)
        clients.send([ask(10 + n) for n in range(6)])
        statuses = [status for status, _, _ in clients.read_all()]
        assert statuses == [200, 200, 500, 200, 200, 200]
        assert idle(server)
        clients.close()


def test_members_may_end_differently(server: RunningServer, engine: Engine) -> None:
    """Taken apart, one is refused and the others are answered."""
    warm(server)
    engine.hold = True
    clients = Clients(server, 3)
    clients.send([ask(10 + n) for n in range(3)])
    until(lambda: len(engine.cohorts) == 1)

    def end_differently() -> None:
        engine.take_apart(engine.cohorts[0])
        (first, _, one), (_, _, two), (third, _, three) = engine.apart
        engine.answer_one(first, one)
        two.fail(ModelFailed("it did not like that"))
        engine.answer_one(third, three)

    server.run(end_differently)
    assert [status for status, _, _ in clients.read_all()] == [200, 500, 200]
    assert idle(server)
    clients.close()


def test_a_quota_counts_each_member(tmp_path: Path, engine: Engine) -> None:
    """A caller with a quota of three gets three of five answers, and all three places back."""
    key = "k" * 43
    digest = hashlib.sha256(key.encode()).hexdigest()
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n- {{sha256: '{digest}', principal: p, max_in_flight: 3}}\n")
    header = f"Authorization: Bearer {key}"
    with RunningServer(keys=keys, last=engine) as server:
        clients = Clients(server, 5)
        clients.sockets[0].sendall(post(INFER, body(10), header, close=False))
        assert clients.read(0)[0] == 200
        engine.hold = True
        clients.send([post(INFER, body(10 + n), header, close=False) for n in range(5)])
        until(lambda: len(engine.apart) == 3)
        assert not engine.cohorts
        server.run(engine.release)
        statuses = sorted(status for status, _, _ in clients.read_all())
        assert statuses == [200, 200, 200, 429, 429]
        engine.hold = True
        few = Clients(server, 3)
        few.send([post(INFER, body(10 + n), header, close=False) for n in range(3)])
        until(lambda: len(engine.cohorts) == 1)
        (principal,) = server.keys._principals.values()
        assert principal.in_flight == 3
        server.run(engine.release)
        assert [status for status, _, _ in few.read_all()] == [200] * 3
        assert idle(server)
        assert principal.in_flight == 0
        clients.close()
        few.close()


def test_every_member_is_counted(server: RunningServer, engine: Engine) -> None:
    """Each has its own record with its own id, whatever it was sent as."""
    warm(server)
    clients = Clients(server, 6)
    clients.send([ask(10 + n) for n in range(6)])
    answers = clients.read_all()
    server.run(server.ring.drain)
    ids = {headers["x-salver-request-id"] for _, headers, _ in answers}
    recorded = [one for one in server.exchanges if one.context.request_id in ids]
    assert len(recorded) == 6
    assert {one.code for one in recorded} == {""}
    assert {one.context.variant for one in recorded} == {"identity-fp32:1"}
    assert all(one.total_ns > 0 for one in recorded)
    clients.close()


def test_traces_stay_with_their_requests(server: RunningServer, engine: Engine) -> None:
    """Members keep their own traceparents, and none is invented for those without."""
    warm(server)
    traces = [f"traceparent: 00-{n:032x}-{n:016x}-01" for n in (1, 2)]
    requests = [
        post(INFER, body(10), traces[0], close=False),
        post(INFER, body(11), traces[1], close=False),
        ask(12),
    ]
    clients = Clients(server, 3)
    clients.send(requests)
    clients.read_all()
    (cohort,) = engine.cohorts
    expected = [f"00-{n:032x}-{n:016x}-01" for n in (1, 2)]
    assert cohort.traceparents == [*expected, None]
    clients.close()
