"""Reports over the data port: who may, in which forms, and that only control says what is taken.

Control is a function here, so that it can be made to wait; tests/e2e has the real one.
"""

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from salver.core.errors import ControlUnavailable
from salver.core.feedback import MAX_RELAYED, Problem, Reported, Taken
from salver.gateway.feedback.bodies import MAX_BODY_BYTES
from salver.wire.messages import Report
from salver.wire.questions import MAX_OPEN_REPORTS
from tests.gateway.inprocess import RunningServer, exchange_bytes, post, split_reply, until
from tests.gateway.test_auth import entry

ALL, LIMITED, BUSY, RARE, FOREIGN = "all", "limited", "busy", "rare", "foreign"
PATH = "/v2/models/two/feedback"
GOOD = {"request_id": "a" * 40, "value": 1, "metric": "paid"}
LINES = "Content-Type: application/x-ndjson"


class Control:
    """Stands for control: keeps what it is told, and takes all but ids that begin with a code."""

    def __init__(self) -> None:
        self.told: list[Report] = []
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, report: Report, timeout_s: float) -> Taken:
        """Answer, when nothing holds it back."""
        assert timeout_s > 0
        self.told.append(report)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        problems = tuple(
            Problem(number, one.request_id, f"{one.request_id} it is")
            for number, one in enumerate(report.reports, 1)
            if "_" in one.request_id
        )
        return Taken(len(report.reports) - len(problems), 0, problems)


@pytest.fixture
def control() -> Control:
    """Give a control that answers."""
    return Control()


@pytest.fixture
def server(tmp_path: Path, control: Control) -> Iterator[RunningServer]:
    """Give a server with keys that takes reports."""
    path = tmp_path / "keys.yaml"
    entries = [
        entry(ALL, principal="alice"),
        entry(LIMITED, principal="bob", endpoints=["hidden"]),
        entry(BUSY, principal="erin", max_in_flight=1),
        entry(RARE, principal="carl", rate=0.001, burst=1),
        entry(FOREIGN, principal="dave", tenant="others"),
    ]
    path.write_text(yaml.safe_dump({"keys": entries}))
    with RunningServer(keys=path, tell=control) as running:
        yield running


def tell(
    server: RunningServer, body: object, *headers: str, key: str = ALL, path: str = PATH
) -> tuple[int, Any]:
    """Report; returns the status and the document."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = post(path, data, f"X-API-Key: {key}", *headers)
    status, _, answer = split_reply(exchange_bytes(server.port, request))
    return status, orjson.loads(answer)


def refusal(server: RunningServer, body: object, *headers: str, **more: str) -> tuple[int, str]:
    """Report; returns the status and the code."""
    status, document = tell(server, body, *headers, **more)
    return status, document["code"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ([GOOD, GOOD], ()),
        ({"reports": [GOOD, GOOD]}, ()),
        (b"%b\n%b\n" % ((orjson.dumps(GOOD),) * 2), ()),
        (b"%b\n\n%b" % ((orjson.dumps(GOOD),) * 2), (LINES,)),
        (b"%b\r\n%b\r\n" % ((orjson.dumps(GOOD),) * 2), (LINES + "; charset=utf-8",)),
        (gzip.compress(orjson.dumps([GOOD, GOOD]), mtime=0), ("Content-Encoding: gzip",)),
    ],
)
def test_many_reports(
    server: RunningServer, control: Control, body: object, headers: tuple[str, ...]
) -> None:
    """A list, an object with one, and lines mean the same, and reach control as one message."""
    assert tell(server, body, *headers) == (200, {"taken": 2, "repeated": 0, "problems": []})
    (report,) = control.told
    assert report.reports == (Reported("a" * 40, 1.0, "paid"),) * 2
    assert (report.endpoint, report.principal, report.tenant) == ("two", "alice", "default")
    assert report.request_id


def test_one_report(server: RunningServer, control: Control) -> None:
    """It may name no metric, and be a yes or no; what is wrong with it is the answer's error."""
    sent = {"request_id": "a" * 40, "value": True}
    assert tell(server, sent) == (200, {"taken": 1, "repeated": 0, "problems": []})
    assert control.told[0].reports == (Reported("a" * 40, 1.0, "outcome"),)
    for code, status in (
        ("request_not_found", 404),
        ("feedback_expired", 410),
        ("feedback_differs", 409),
        ("invalid_request", 400),
    ):
        assert refusal(server, {**GOOD, "request_id": code}) == (status, code)
    told = len(control.told)
    for wrong in ({}, {"value": 1}, {**GOOD, "valeu": 1}, {**GOOD, "value": "1"}):
        assert refusal(server, wrong) == (400, "invalid_request")
    assert len(control.told) == told


@pytest.mark.parametrize("lines", [False, True])
def test_good_ones_count_whatever_others_are(
    server: RunningServer, control: Control, lines: bool
) -> None:
    """Each bad one has its own number, be it refused here or by control."""
    items: list[object] = [
        7,
        GOOD,
        {**GOOD, "request_id": "request_not_found"},
        {**GOOD, "value": None},
        GOOD,
        {**GOOD, "request_id": "feedback_expired"},
        {**GOOD, "request_id": "x" * 257},
        {**GOOD, "metric": 1},
        {**GOOD, "more": 1},
    ]
    body: object = items
    if lines:
        body = b"\n".join([*map(orjson.dumps, items), b'{"broken', b"1" * 5000, b""])
    status, document = tell(server, body, *([LINES] if lines else []))
    assert (status, document["taken"], document["repeated"]) == (200, 2, 0)
    found = [(problem["number"], problem["code"]) for problem in document["problems"]]
    here = "invalid_request"
    expected = [(1, here), (3, "request_not_found"), (4, here), (6, "feedback_expired")]
    expected += [(7, here), (8, here), (9, here)]
    assert found == expected + ([(10, here), (11, here)] if lines else [])
    assert len(control.told[0].reports) == 4


def test_nothing_that_could_be_taken(server: RunningServer, control: Control) -> None:
    """Control is not asked about reports of which none can be read."""
    status, document = tell(server, [1, 2])
    assert (status, document["taken"], len(document["problems"])) == (200, 0, 2)
    assert not control.told


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "invalid_json")),
        (b"{", (400, "invalid_json")),
        (b'{"request_id":\n1', (400, "invalid_json")),
        (b"7", (400, "invalid_request")),
        (b"[]", (400, "invalid_request")),
        (b'{"reports": {}}', (400, "invalid_request")),
        (b'{"reports": [], "more": 1}', (400, "invalid_request")),
        (json.dumps([GOOD] * (MAX_RELAYED + 1)).encode(), (400, "invalid_request")),
        (b" " * MAX_BODY_BYTES + b"{}", (413, "body_too_large")),
        (orjson.dumps(GOOD) + b"\n" * 10_000 + orjson.dumps(GOOD), (400, "invalid_request")),
    ],
)
def test_bodies_that_are_refused(
    server: RunningServer, control: Control, body: bytes, expected: tuple[int, str]
) -> None:
    """Whatever is no report or too much is refused whole."""
    assert refusal(server, body) == expected
    assert not control.told


def test_a_body_that_inflates(server: RunningServer, control: Control) -> None:
    """The limit holds for what a body means, not for what it weighs."""
    packed = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    assert refusal(server, packed, "Content-Encoding: gzip") == (413, "body_too_large")
    assert not control.told


def test_the_most_that_a_body_holds(server: RunningServer, control: Control) -> None:
    """So many reports of the usual size fit, all of them counted."""
    body = [{"request_id": f"{number:060x}", "value": 0.5} for number in range(MAX_RELAYED)]
    assert tell(server, body)[1]["taken"] == MAX_RELAYED
    assert len(control.told[0].reports) == MAX_RELAYED


def test_who_may_report(server: RunningServer, control: Control) -> None:
    """Whoever may not call an endpoint may not report of it, nor learn whether it is there."""
    assert refusal(server, GOOD, key="guess") == (401, "unauthenticated")
    assert refusal(server, GOOD, key=LIMITED) == (403, "forbidden")
    assert refusal(server, GOOD, key=LIMITED, path="/v2/models/none/feedback")[0] == 403
    for path in ("/v2/models/none/feedback", "/v2/models/elsewhere/feedback"):
        assert refusal(server, GOOD, path=path) == (404, "endpoint_not_found")
    assert refusal(server, GOOD, key=FOREIGN) == (404, "endpoint_not_found")
    assert not control.told
    assert tell(server, GOOD, key=LIMITED, path="/v2/models/hidden/feedback")[0] == 200
    assert tell(server, GOOD, key=FOREIGN, path="/v2/models/elsewhere/feedback")[0] == 200
    assert control.told[1].tenant == "others"


def test_a_call_counts_for_its_callers_rate(server: RunningServer, control: Control) -> None:
    """As an inference does."""
    assert tell(server, GOOD, key=RARE)[0] == 200
    assert refusal(server, GOOD, key=RARE) == (429, "quota_exceeded")
    assert len(control.told) == 1


def test_an_open_call_counts_for_its_callers_quota(server: RunningServer, control: Control) -> None:
    """Until control has answered."""
    server.run(control.go.clear)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(post(PATH, json.dumps(GOOD).encode(), f"X-API-Key: {BUSY}", close=False))
        until(lambda: len(control.told) == 1)
        assert refusal(server, GOOD, key=BUSY) == (429, "quota_exceeded")
        server.run(control.go.set)
        until(lambda: tell(server, GOOD, key=BUSY)[0] == 200)


def test_without_control_nothing_is_promised(server: RunningServer, control: Control) -> None:
    """The refusal has a code and says when to try again; so does a fault of ours."""
    control.error = ControlUnavailable("it is away", retry_after_s=1.0)
    request = post(PATH, json.dumps(GOOD).encode(), f"X-API-Key: {ALL}")
    status, headers, body = split_reply(exchange_bytes(server.port, request))
    assert (status, headers["retry-after"]) == (503, "1")
    assert orjson.loads(body)["code"] == "control_unavailable"
    control.error = RuntimeError("a fault")
    assert refusal(server, GOOD) == (500, "internal")
    control.error = None
    assert tell(server, GOOD)[0] == 200


def test_one_caller_leaves_room_for_others(server: RunningServer, control: Control) -> None:
    """Half of the places are the most that a caller gets; they are free again afterwards."""
    server.run(control.go.clear)
    request = post(PATH, json.dumps(GOOD).encode(), f"X-API-Key: {ALL}", close=False)
    half = MAX_OPEN_REPORTS // 2
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request * half)
        until(lambda: len(control.told) == half)
        status, document = tell(server, GOOD)
        assert (status, document["code"]) == (503, "overloaded")
        many = [GOOD] * MAX_RELAYED
        server.run(control.go.set)
        until(lambda: tell(server, many)[0] == 200)


def test_one_caller_leaves_room_for_others_reports(server: RunningServer, control: Control) -> None:
    """Calls with many reports fill its part sooner, and another caller still gets through."""
    server.run(control.go.clear)
    many = json.dumps([GOOD] * MAX_RELAYED).encode()
    request = post(PATH, many, f"X-API-Key: {ALL}", close=False)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request * 9)
        until(lambda: len(control.told) == 8)
        assert refusal(server, GOOD) == (503, "overloaded")
        assert len(control.told) == 8
        server.run(control.go.set)
        hidden = "/v2/models/hidden/feedback"
        assert tell(server, GOOD, key=LIMITED, path=hidden)[0] == 200


def test_other_ways_to_ask(server: RunningServer, control: Control) -> None:
    """Reports are posted, to an endpoint and not to a version of it."""
    url = f"http://127.0.0.1:{server.port}{PATH}"
    headers = {"x-api-key": ALL}
    asked = httpx.get(url, headers=headers)
    assert (asked.status_code, asked.headers["allow"]) == (405, "POST, OPTIONS")
    assert httpx.options(url).headers["allow"] == "POST, OPTIONS"
    path = "/v2/models/two/versions/1/feedback"
    assert refusal(server, GOOD, path=path) == (404, "route_not_found")
    assert refusal(server, GOOD, path="/v2/models/a%20b/feedback") == (400, "invalid_name")
    assert not control.told


def test_http2(server: RunningServer, control: Control) -> None:
    """The same over HTTP/2."""
    with httpx.Client(http1=False, http2=True) as client:
        url = f"http://127.0.0.1:{server.port}{PATH}"
        answer = client.post(url, json=[GOOD], headers={"x-api-key": ALL})
    assert (answer.http_version, answer.json()["taken"]) == ("HTTP/2", 1)


def test_where_it_is_switched_off() -> None:
    """The refusal names the setting and the other way."""
    with RunningServer() as server:
        status, document = tell(server, GOOD)
        assert (status, document["code"]) == (501, "unsupported_operation")
        assert "http.feedback" in document["error"]
        assert "salver feedback" in document["error"]
