"""Applications that have a key for the data port and nothing else report of answers."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from salver import AsyncClient, Client
from salver.core.errors import Forbidden, RequestNotFound
from salver.core.feedback import Reported
from salver.wire.messages import Change, Changed, Report
from tests.control.test_changes import answers, linked, until
from tests.e2e.server import Server, run, wait_until
from tests.e2e.test_keys import new_key

PATH = "/v2/models/scaled"


class Shop:
    """A server with keys and an experiment, and what applications see of it."""

    def __init__(self, folder: Path) -> None:
        file = folder / "keys.yaml"
        file.write_text("keys:\n")
        self.key = new_key(file, "--principal", "alice")
        self.limited = new_key(file, "--principal", "bob", "--endpoints", "other")
        self.server = Server(folder / "home", "--api-keys", str(file))
        self.nowhere = folder / "nowhere"

    def begin(self, folder: Path) -> None:
        """Start an experiment, and wait until both arms answer."""
        for scale in (2, 3):
            self.server.push_scaled(folder, scale)
        self.server.ok("deploy", "scaled:1")
        self.server.ok(
            "experiment", "start", "scaled", "--arms", "1,2", "--split", "50,50", "--metric", "paid"
        )
        wait_until(lambda: len({self.ask()[0] for _ in range(20)}) == 2, "both arms answer")

    @property
    def url(self) -> str:
        """The data port."""
        return str(self.server.state()["http_url"])

    def post(self, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        """Send something with a caller's key."""
        headers = {"x-api-key": key or self.key}
        return httpx.post(self.url + PATH + path, headers=headers, timeout=60, **options)

    def ask(self) -> tuple[str, str]:
        """Return which variant answered, and the id."""
        item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
        answer = self.post("/infer", json={"inputs": [item]})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-salver-variant"], answer.headers["x-salver-request-id"]

    def report(self, request_id: str, value: float = 1, key: str | None = None) -> httpx.Response:
        """Report over the data port."""
        body = {"request_id": request_id, "value": value, "metric": "paid"}
        return self.post("/feedback", key, json=body)

    def outcomes(self) -> int:
        """Return how many outcomes the experiment has."""
        arms = self.server.json("experiment", "report", "scaled")["arms"]
        return int(sum(arm["outcomes"] for arm in arms))

    def client(self) -> Client:
        """Return a client that knows the data port and a key, and no control token."""
        return Client(self.url, api_key=self.key, home=self.nowhere)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Give a server with an experiment."""
    folder = tmp_path_factory.mktemp("shop")
    made = Shop(folder)
    with made.server:
        made.begin(folder)
        yield made


def test_outcomes_reach_the_experiment(shop: Shop) -> None:
    """Lines with a caller's key find their arms, and the report says who is ahead."""
    before, lines = shop.outcomes(), []
    for number in range(200):
        variant, request_id = shop.ask()
        paid = number % 2 == 0 if variant == "scaled:2" else number % 20 == 0
        lines.append(json.dumps({"request_id": request_id, "value": paid, "metric": "paid"}))
    lines[7:7] = ["{broken", json.dumps({"request_id": "0" * 40, "value": 1})]
    answer = shop.post("/feedback", content="\n".join(lines))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["taken"], found["repeated"]) == (200, 0)
    problems = [(problem["number"], problem["code"]) for problem in found["problems"]]
    assert problems == [(8, "invalid_request"), (9, "request_not_found")]
    assert shop.outcomes() == before + 200
    second = shop.server.json("experiment", "report", "scaled")["arms"][1]
    assert (second["arm"], second["verdict"]) == ("scaled:2", "higher")


def test_the_codes_of_one_report(shop: Shop) -> None:
    """Twice is known already, another value differs, and made-up ids are nobody's."""
    _, request_id = shop.ask()
    before = shop.outcomes()
    assert shop.report(request_id).json() == {"taken": 1, "repeated": 0, "problems": []}
    assert shop.report(request_id).json() == {"taken": 0, "repeated": 1, "problems": []}
    for answer, status, code in (
        (shop.report(request_id, 0), 409, "feedback_differs"),
        (shop.report("0" * 60), 404, "request_not_found"),
        (shop.report(request_id, 1e12), 400, "invalid_request"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert shop.outcomes() == before + 1


def test_who_may_not_call_may_not_report(shop: Shop) -> None:
    """A genuine id does not help a key that is for another endpoint."""
    _, request_id = shop.ask()
    before = shop.outcomes()
    refused = shop.report(request_id, key=shop.limited)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert shop.report(request_id, key="guess").status_code == 401
    with (
        Client(shop.url, api_key=shop.limited, home=shop.nowhere) as client,
        pytest.raises(Forbidden),
    ):
        client.feedback("scaled", request_id, 1.0, "paid")
    assert shop.outcomes() == before


def test_both_clients_and_the_command_line(shop: Shop, tmp_path: Path) -> None:
    """Each reports with a key alone; with the control token at hand all is as it was."""
    ids = [shop.ask()[1] for _ in range(6)]
    before = shop.outcomes()
    table = tmp_path / "outcomes.csv"
    rows = [f"{number:040x},1" for number in range(1100)]
    rows[0], rows[1050] = f"{ids[1]},1", f"{ids[2]},0"
    table.write_text("\n".join(["request_id,value", *rows]) + "\n")
    with shop.client() as client:
        client.feedback("scaled", ids[0], 1.0, "paid")
        with pytest.raises(RequestNotFound):
            client.feedback("scaled", "0" * 40, 1.0)
        done = client.feedback_file("scaled", table, "paid")
    assert (done["taken"], len(done["problems"])) == (2, 1098)
    numbers = [problem["number"] for problem in done["problems"]]
    assert numbers == [n for n in range(2, 1102) if n not in (2, 1052)]

    async def report() -> None:
        async with AsyncClient(api_key=shop.key, data_url=shop.url, home=shop.nowhere) as client:
            await client.feedback("scaled", ids[3], 1.0, "paid")
            assert (await client.feedback_file("scaled", table, "paid"))["repeated"] == 2

    asyncio.run(report())
    one = ("feedback", "scaled", "--value", "1", "--metric", "paid", "--request-id")
    only = ("--url", shop.url, "--api-key", shop.key, "--home", str(shop.nowhere))
    said = run(*one, ids[4], *only)
    assert said.returncode == 0, said.stderr
    assert b"is counted" in said.stdout
    assert "is counted" in shop.server.ok(*one, ids[5])
    assert shop.outcomes() == before + 6
    with shop.server.client() as client:
        client.feedback("scaled", ids[5], 1.0, "paid", over="control")


def test_control_is_killed(shop: Shop) -> None:
    """Without it there is a coded 503, never a promise; a retry is taken, once."""
    _, request_id = shop.ask()
    before = shop.outcomes()
    pid = shop.server.pid_of("control")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    refused = shop.report(request_id)
    assert (refused.status_code, refused.json()["code"]) == (503, "control_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert shop.ask()[0].startswith("scaled:")
    kept: list[httpx.Response] = []

    def taken() -> bool:
        kept.append(shop.report(request_id))
        return kept[-1].status_code == 200

    wait_until(taken, "a retry is taken")
    assert {answer.status_code for answer in kept[:-1]} <= {503}
    assert kept[-1].json()["taken"] == 1
    assert shop.report(request_id).json()["repeated"] == 1
    assert shop.outcomes() == before + 1


def test_control_is_killed_while_somebody_waits(shop: Shop) -> None:
    """Who waits for its word is told that it went, at once; a retry is taken, once."""
    _, request_id = shop.ask()
    before = shop.outcomes()
    pid = shop.server.pid_of("control")
    assert pid is not None
    with ThreadPoolExecutor(1) as pool:
        os.kill(pid, signal.SIGSTOP)
        waiting = pool.submit(shop.report, request_id)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1)
        os.kill(pid, signal.SIGKILL)
        refused = waiting.result(timeout=9)
    assert (refused.status_code, refused.json()["code"]) == (503, "control_unavailable")
    assert "each counts once" in refused.json()["error"]
    wait_until(lambda: shop.report(request_id).status_code == 200, "a retry is taken")
    assert shop.outcomes() == before + 1


def test_only_gateways_pass_reports_on(shop: Shop) -> None:
    """A worker that sends reports gets no answer, and nothing is stored."""
    _, request_id = shop.ask()
    before = shop.outcomes()
    report = Report(1, "scaled", "a", "default", "r", (Reported(request_id, 1.0, "paid"),))

    async def send() -> None:
        async with linked(shop.server, "worker") as (connection, inbox):
            connection.send(report)
            async with linked(shop.server) as (other, news):
                other.send(Change(1, "load", "scaled", "a", "default", "r", 1_000_000))
                await until(news, lambda: bool(answers(news)))
                assert not isinstance(answers(news)[0], Changed)
            assert not answers(inbox)

    uvloop.run(send())
    assert shop.outcomes() == before
    assert shop.report(request_id).json()["taken"] == 1


def test_it_can_be_switched_off(home: Path, tmp_path: Path) -> None:
    """Then a key does not help, and the control API takes reports as ever."""
    home.mkdir()
    (home / "salver.yaml").write_text("http: {feedback: false}\n")
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        with server.client() as client:
            request_id = client.predict("scaled", [[1.0, 2.0]]).request_id
            client.feedback("scaled", request_id, 1.0)
        url = f"{server.state()['http_url']}{PATH}/feedback"
        answer = httpx.post(url, json={"request_id": request_id, "value": 1}, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (501, "unsupported_operation")
