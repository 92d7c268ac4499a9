"""Counters by endpoint and version: exact, never falling, bounded."""

import random
import socket
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from salver.core.clock import ManualClock
from salver.core.context import ANONYMOUS, Principal, RequestContext
from salver.core.exchange import Exchange, ExchangeRing, JointExchange, Record
from salver.core.timing import Timing
from salver.gateway.triton import statistics as module
from salver.gateway.triton.statistics import Statistics
from salver.wire.messages import BatchPolicy, EndpointPlan
from tests.gateway.inprocess import (
    RunningServer,
    endpoint,
    exchange_bytes,
    identity_signature,
    post,
    read_all,
    split_reply,
)
from tests.gateway.test_gather import Clients, Engine, ask, warm

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


class Plans:
    """Statistics in front of a plan that a test changes."""

    def __init__(self, *endpoints: EndpointPlan) -> None:
        self.known = {one.name: one for one in endpoints}
        self.clock = ManualClock()
        self.ring = ExchangeRing(1 << 20)
        self.statistics = Statistics(self.ring, self.known.get, self.clock)
        self.ring.subscribe(self.statistics)

    def add(self, *records: Record) -> None:
        """Let exchanges finish."""
        for record in records:
            if isinstance(record, JointExchange):
                self.ring.append_joint(record)
            else:
                self.ring.append(record)

    def entry(self, name: str = "m", version: str = "1") -> Any:
        """Return the counters of one version."""
        (found,) = self.statistics.document(self.known[name], version)
        return found


def model(**changes: Any) -> EndpointPlan:
    """Return an endpoint whose requests are joined in batches, with changes to its variant."""
    plan = endpoint("m", identity_signature("FP32"))
    variant = msgspec.structs.replace(plan.variants[0], **changes)
    return msgspec.structs.replace(plan, variants=(variant,))


def context(version: str = "1", principal: Principal = ANONYMOUS) -> RequestContext:
    """Return what the router leaves behind."""
    return RequestContext("", principal, 1_000_000_000, 0, variant=f"m:{version}", version=version)


def single(timing: Timing | None, rows: int = 1, code: str = "", version: str = "1") -> Exchange:
    """Return a request that took 10 microseconds."""
    return Exchange(context(version), "m", "http", code, 10_000, timing, rows=rows)


def joint(count: int, timing: Timing, rows: int = 1) -> JointExchange:
    """Return requests that were answered together; each waited a nanosecond longer."""
    timings = [msgspec.structs.replace(timing, queue_ns=number) for number in range(count)]
    ids = [str(number) for number in range(count)]
    return JointExchange(context(), "m", "http", 10_000, ids, timings, rows)


def test_one_batch_of_several_requests_is_one_execution() -> None:
    """Every duration and count is exact for a batch of a single request and a cohort."""
    plans = Plans(model())
    timing = Timing(5, 20, 1000, 3, 5)
    plans.add(single(timing, rows=2), joint(3, timing))
    found = plans.entry()
    assert (found["name"], found["version"]) == ("m", "1")
    assert (found["inference_count"], found["execution_count"]) == (5, 1)
    stats = found["inference_stats"]
    assert stats == {
        "success": {"count": 4, "ns": 40_000},
        "fail": {"count": 0, "ns": 0},
        "queue": {"count": 4, "ns": 5 + 0 + 1 + 2},
        "compute_input": {"count": 4, "ns": 80},
        "compute_infer": {"count": 4, "ns": 4000},
        "compute_output": {"count": 4, "ns": 12},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }
    assert found["batch_stats"] == [
        {
            "batch_size": 5,
            "compute_input": {"count": 1, "ns": 20},
            "compute_infer": {"count": 1, "ns": 1000},
            "compute_output": {"count": 1, "ns": 3},
        }
    ]
    assert (found["response_stats"], found["memory_usage"]) == ({}, [])
    assert found["last_inference"] == (1_700_000_000_000_000_000 + 1_000_010_000) // 10**6
    assert plans.entry() == found


BATCHES = st.lists(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.booleans()), min_size=1, max_size=5
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(BATCHES, st.integers(0, 1 << 30))
def test_counters_add_up_whatever_the_order(
    batches: Sequence[Sequence[tuple[int, int, bool]]], seed: int
) -> None:
    """Executions are the batches, rows the rows; on the way no number ever falls."""
    plans = Plans(model())
    records: list[Record] = []
    requests = all_rows = 0
    for parts in batches:
        size = sum(rows * count for rows, count, _ in parts)
        timing = Timing(0, 1, 1000 * size, 2, size)
        all_rows += size
        for rows, count, is_joint in parts:
            requests += count
            if is_joint:
                records.append(joint(count, timing, rows))
            else:
                records += [single(timing, rows)] * count
    random.Random(seed).shuffle(records)
    before = flat(plans.entry())
    for record in records:
        plans.add(record)
        after = flat(plans.entry())
        assert all(after[key] >= value for key, value in before.items())
        before = after
    found = plans.entry()
    assert found["inference_count"] == all_rows
    assert found["execution_count"] == len(batches)
    assert found["inference_stats"]["success"]["count"] == requests
    assert sum(item["compute_infer"]["count"] for item in found["batch_stats"]) == len(batches)
    assert sum(item["compute_infer"]["ns"] for item in found["batch_stats"]) == 1000 * all_rows


def flat(found: dict[str, Any]) -> dict[str, int]:
    """Return every number of an entry."""
    numbers = {name: found[name] for name in ("inference_count", "execution_count")}
    for name in DURATIONS:
        numbers |= {f"{name} {key}": found["inference_stats"][name][key] for key in ("count", "ns")}
    for item in found["batch_stats"]:
        numbers |= {f"{item['batch_size']} {key}": item["compute_infer"][key] for key in ("count",)}
    return numbers


def test_failures_are_counted_apart() -> None:
    """A failed request is a failure with its time, and no execution or inference."""
    plans = Plans(model())
    plans.add(single(None, code="model_failed", rows=7), single(Timing()))
    found = plans.entry()
    assert found["inference_stats"]["fail"] == {"count": 1, "ns": 10_000}
    assert found["inference_stats"]["success"] == {"count": 1, "ns": 10_000}
    assert (found["inference_count"], found["execution_count"]) == (1, 1)


def test_what_reached_no_version_is_not_counted() -> None:
    """Requests that were refused before they had a variant change nothing and take no memory."""
    plans = Plans(model())
    before = plans.entry()
    for number in range(10):
        unknown = single(None, code="endpoint_not_found", version="")
        plans.add(msgspec.structs.replace(unknown, endpoint=f"m{number}"))
    plans.add(single(None, code="not_ready", version=""))
    assert plans.entry() == before
    assert before["last_inference"] == 0
    assert not plans.statistics._counters


def test_a_model_that_is_not_batched_counts_requests() -> None:
    """Whatever their shape, its requests are one inference and one execution each."""
    plans = Plans(model(policy=BatchPolicy(max_batch_size=1)))
    plans.add(single(Timing(0, 0, 50, 0, 8), rows=8), joint(2, Timing(0, 0, 50, 0, 8), rows=8))
    found = plans.entry()
    assert (found["inference_count"], found["execution_count"]) == (3, 3)
    assert [item["batch_size"] for item in found["batch_stats"]] == [1]
    assert found["batch_stats"][0]["compute_infer"] == {"count": 3, "ns": 150}


def test_an_answer_without_times_is_a_batch_of_its_own() -> None:
    """Counters stay in step where a handler tells no times."""
    plans = Plans(model())
    plans.add(single(None, rows=3))
    found = plans.entry()
    assert (found["inference_count"], found["execution_count"]) == (3, 1)
    assert found["inference_stats"]["queue"] == {"count": 1, "ns": 0}


def looked(timing: Timing | None, memory_ns: int, rows: int = 1, code: str = "") -> Exchange:
    """Return a request whose answer was looked for in memory; one without times was there."""
    record = single(timing, rows, code)
    record.context.memory_ns = memory_ns
    return record


def test_answers_from_memory_are_inferences_and_no_executions() -> None:
    """They are successes with their rows and time; what is computed is of those that ran."""
    plans = Plans(model())
    plans.add(looked(Timing(5, 20, 1000, 3, 2), 700, rows=2), looked(None, 300, rows=2))
    plans.add(looked(None, 200, rows=4), looked(None, 900, code="model_failed"))
    found = plans.entry()
    assert (found["inference_count"], found["execution_count"]) == (8, 1)
    assert found["inference_stats"] == {
        "success": {"count": 3, "ns": 30_000},
        "fail": {"count": 1, "ns": 10_000},
        "queue": {"count": 3, "ns": 5},
        "compute_input": {"count": 1, "ns": 20},
        "compute_infer": {"count": 1, "ns": 1000},
        "compute_output": {"count": 1, "ns": 3},
        "cache_hit": {"count": 2, "ns": 500},
        "cache_miss": {"count": 1, "ns": 700},
    }
    assert [item["batch_size"] for item in found["batch_stats"]] == [2]


def test_versions_and_tenants_are_apart() -> None:
    """Each version has its counters; an endpoint that another tenant takes over starts anew."""
    plan = model()
    second = msgspec.structs.replace(plan.variants[0], id="m:10", version="10")
    plan = msgspec.structs.replace(plan, variants=(second, *plan.variants))
    plans = Plans(plan)
    plans.add(single(Timing()), single(Timing(), version="10"), single(Timing(), version="10"))
    counts = {
        found["version"]: found["inference_count"] for found in plans.statistics.document(plan)
    }
    assert list(counts.items()) == [("1", 1), ("10", 2)]
    taken = msgspec.structs.replace(plan, tenant="others")
    assert [one["inference_count"] for one in plans.statistics.document(taken)] == [0, 0]


def test_batch_sizes_are_bounded() -> None:
    """However many sizes callers make, so many are told apart, and the totals stay exact."""
    plans = Plans(model())
    for size in range(1, 301):
        plans.add(single(Timing(0, 0, 10, 0, size), rows=size))
    found = plans.entry()
    assert [item["batch_size"] for item in found["batch_stats"]] == list(range(1, 129))
    assert found["execution_count"] == 300
    assert found["inference_count"] == sum(range(1, 301))


def test_versions_that_are_gone_are_let_go_when_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the plan has keeps its counts; what it has no more is forgotten over the bound."""
    monkeypatch.setattr(module, "_MAX_KEPT", 8)
    plans = Plans(model())
    plans.add(single(Timing()))
    for version in range(2, 100):
        plans.add(single(Timing(), version=str(version)))
        plans.ring.drain()
        assert len(plans.statistics._counters) <= 8
    assert plans.entry()["inference_count"] == 1


def stats(server: RunningServer, name: str) -> Any:
    """Return what tritonclient is told of one endpoint."""
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        (found,) = client.get_inference_statistics(name)["model_stats"]
    return found


@pytest.mark.parametrize("name", ["identity-fp32", "identity-bytes"])
def test_a_caller_sees_its_own_requests(server: RunningServer, name: str) -> None:
    """Right after an answer its rows, success and time are in the counters."""
    array = np.ones((3, 2), np.float32)
    if name == "identity-bytes":
        array = np.array([[b"a"], [b"b"], [b"c"]], object)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        for number in range(1, 4):
            item = tritonclient.http.InferInput("x", list(array.shape), name[9:].upper())
            item.set_data_from_numpy(array)
            client.infer(name, [item])
            (found,) = client.get_inference_statistics(name, "1")["model_stats"]
            assert found["inference_count"] == 3 * number
            assert found["execution_count"] == number
            success = found["inference_stats"]["success"]
            assert success["count"] == number
            assert success["ns"] > 0
        assert found["last_inference"] > 1_700_000_000_000
        with pytest.raises(InferenceServerException, match="does not serve version"):
            client.get_inference_statistics(name, "2")
        with pytest.raises(InferenceServerException, match="no endpoint"):
            client.get_inference_statistics("elsewhere")
        everything = client.get_inference_statistics()["model_stats"]
        assert found in everything
        assert all(int(item["version"]) == 1 for item in everything)
        assert client.get_inference_statistics("loading") == {"model_stats": []}


def test_failed_requests_through_the_server(server: RunningServer) -> None:
    """A model's failure and a refused tensor count as failures of the version they reached."""
    before = stats(server, "two")["inference_stats"]
    item = {"shape": [1], "datatype": "FP32", "data": [1]}
    inputs = [{"name": "a", **item}, {"name": "b", **item}]
    for body in ({"inputs": inputs, "parameters": {"fail": True}}, {"inputs": inputs[:1]}):
        request = post("/v2/models/two/infer", orjson.dumps(body))
        assert split_reply(exchange_bytes(server.port, request))[0] >= 400
    after = stats(server, "two")["inference_stats"]
    assert after["fail"]["count"] == before["fail"]["count"] + 2
    assert after["success"] == before["success"]


def test_cohorts_count_as_their_members() -> None:
    """Requests that travel together are counted one by one, with the rows of each."""
    engine = Engine()
    with RunningServer(last=engine) as server:
        warm(server)
        clients = Clients(server, 5)
        before = stats(server, "identity-fp32")
        clients.send([ask(20 + number) for number in range(5)])
        assert [status for status, _, _ in clients.read_all()] == [200] * 5
        clients.close()
        assert [len(cohort) for cohort in engine.cohorts] == [5]
        found = stats(server, "identity-fp32")
        assert found["inference_count"] == before["inference_count"] + 5
        success = found["inference_stats"]["success"]["count"]
        assert success == before["inference_stats"]["success"]["count"] + 5
        assert found["inference_stats"]["queue"]["ns"] == 0 + 1 + 2 + 3 + 4


def test_requests_answered_jointly_are_counted(server: RunningServer) -> None:
    """Single requests that one joint response answers are each counted, with their rows."""
    name = "labelled"
    before = stats(server, name)
    server.computer.hold = True
    item = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    request = post(f"/v2/models/{name}/infer", orjson.dumps({"inputs": [item]}), close=False)
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request + last)
        while len(server.computer.waiting) < 2:
            server.run(lambda: None)
        server.computer.hold = False
        server.release_jointly()
        assert read_all(client).count(b"200 OK") == 2
    found = stats(server, name)
    assert found["inference_count"] == before["inference_count"] + 2
    assert found["execution_count"] == before["execution_count"] + 2
