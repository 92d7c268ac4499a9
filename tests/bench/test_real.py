"""What the bench concludes from loads that were offered to servers of real models."""

import asyncio
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.goodput_plot import goodput_plot
from bench.machine import Machine
from bench.offered import Contestant, Offered, Plan, offer
from bench.parts.text import Search
from bench.report_real import recovered_after_s
from bench.results import Capacity, Overload, OverloadStep, Results
from bench.servers.base import JSON
from bench.targets import verdicts
from bench.wire_http import Target
from tests.load.server import OK, Server, refusal


def offered(rate_per_s: float = 10.0, **more: object) -> Offered:
    """Return a load of which all was answered, but for what is said."""
    found: dict[str, object] = {
        "due": 10, "answered": 10, "in_time": 10, "in_time_per_s": rate_per_s, "p50_ms": 5.0,
        "p99_ms": 9.0, "accepted_p99_ms": 9.0, "refused": 0, "refusal_p50_ms": None,
        "refusal_p99_ms": None, "unsent": 0, "lag_p99_ms": 0.1, "generator_cores": 0.1, **more,
    }  # fmt: skip
    return Offered(rate_per_s=rate_per_s, **found)  # type: ignore[arg-type]


def overload(shares: list[int]) -> Overload:
    """Return a server that answers all of ten a second at most; then so many of ten."""
    steps = [
        OverloadStep(times, offered(10 * times, in_time_per_s=min(10.0, 10 * times)), 100.0)
        for times in (0.5, 1.0, 2.0, 10.0)
    ]
    after = offered(7.0, due_by_second=[10] * len(shares), in_time_by_second=shares)
    return Overload(10.0, 20.0, 240.0, steps, OverloadStep(0.7, after, 100.0))


def results() -> Results:
    """Return a run without figures."""
    machine = Machine("cpu", 2, (0, 1), 24.0, "6", "3.11", 0.0)
    return Results(machine, "now", 1, 1.0)


@pytest.mark.parametrize("limit", [0.2, 0.5, 0.77, 1.2, 2.0])
def test_a_search_ends_just_below_the_limit(limit: float) -> None:
    """Its best rate was met, the next one was not, and it says what was answered then."""
    search = Search(Contestant("x", Target(1, "/"), {}, Path()), 100.0)
    tried: dict[float, bool] = {}
    while (rate := search.rate_per_s) is not None:
        late = None if rate > 100 * limit else 900.0
        tried[rate] = search.tell(offered(rate, p99_ms=late))
    assert len(tried) <= 6
    met = [rate for rate in search.rates if rate <= 100 * limit]
    if not met:
        assert search.best is None
        return
    assert search.best is not None
    assert search.best.rate_per_s == max(met)
    assert search.best.answers_per_s == max(met)


@pytest.mark.parametrize(
    ("shares", "seconds"),
    [([10, 10, 10], 0), ([0, 4, 10, 9], 2), ([10, 5, 10], 2), ([0, 0, 8], None)],
)
def test_when_goodput_is_back(shares: list[int], seconds: int | None) -> None:
    """That is after the last second in which less than nine tenths were answered in time."""
    assert recovered_after_s(overload(shares)) == seconds


def test_the_picture_is_one() -> None:
    """The plot is well-formed and names every server, whatever its name."""
    root = ET.fromstring(goodput_plot({"salver": overload([1]), "a<b>": overload([1])}))
    words = [element.text or "" for element in root.iter()]
    assert any(word.startswith("salver") for word in words)
    assert any(word.startswith("a<b>") for word in words)


def test_the_best_way_of_each_server_counts() -> None:
    """Texts are compared with the best way of the other, and each target says whether it is met."""
    run = results()
    figures = {"salver": 80.0, "salver-small": 100.0, "triton-alone": 95.0, "triton-dynamic": 40.0}
    run.text = {name: [Capacity(value)] for name, value in figures.items()}
    found = {verdict.what: verdict for verdict in verdicts(run)}
    assert found["Salver / Triton's dynamic batching, texts/s"].value == 2.5
    assert found["Salver / Triton's dynamic batching, texts/s"].met
    assert found["Salver / the best of Triton, texts/s"].word == "NOT MET"
    assert found["Salver / LitServe's batching, texts/s"].word == "not measured"
    run.overload = {"salver": overload([10, 10])}
    found = {verdict.what: verdict for verdict in verdicts(run)}
    assert found["Salver, goodput at 10 × capacity / its peak"].met
    assert found["Salver, full goodput after the load has fallen (s)"].met


def test_what_was_offered_is_told_as_it_ended(tmp_path: Path) -> None:
    """Answers, refusals and lost connections are counted apart; every body is one of the file's."""
    bodies = tmp_path / "bodies"
    bodies.write_bytes(b'{"text": "one"}\n{"text": "two"}')

    async def answer(number: int) -> bytes | None:
        return (OK, refusal(503, b'{"code": "overloaded"}'), None)[number % 3]

    async def scene() -> tuple[Offered, set[bytes]]:
        async with Server(answer) as server:
            target = Target(server.target.port, "/ask", {"X-API-Key": "k"})
            contestant = Contestant("x", target, JSON, bodies, one_a_line=True)
            plan = Plan(120.0, 1.0, 1000.0, warm_up_s=0.0)
            found = await asyncio.to_thread(offer, contestant, plan, tmp_path)
            return found, set(server.bodies)

    found, sent = asyncio.run(scene())
    assert sent == set(bodies.read_bytes().splitlines())
    assert found.due == sum(found.outcomes.values()) == sum(found.due_by_second)
    assert found.outcomes.keys() == {"ok", "503 overloaded", "connection_lost"}
    assert found.answered == found.outcomes["ok"] > 0
    assert found.refused == found.outcomes["503 overloaded"] > 0
    assert found.p99_ms is None
    assert found.accepted_p99_ms is not None
