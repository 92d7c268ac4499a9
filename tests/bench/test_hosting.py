"""What the bench concludes of many models in little memory, and of a shadow."""

import asyncio
import json
import math
import re
from pathlib import Path

import pytest

from bench import routing_loop
from bench.many_loop import deck, drawn
from bench.parts.many import (
    Asked,
    is_hit,
    judge,
    latency,
    loads,
    nearest,
    overlaps,
    run_loop,
    spans,
)
from bench.report import render
from bench.results import Latency, Many, ManyRound, Results, Shadow, ShadowRound
from bench.servers.many import Change, body_of, changes
from bench.targets import ROUTED, verdicts
from tests.bench.test_real import offered, results
from tests.load.server import OK, Server

LOG = """
{"event": "model_loaded", "variant": "a:1", "seconds": 0.5, "timestamp": "2026-01-01T00:00:10.5Z"}
{"event": "worker_worn", "timestamp": "2026-01-01T00:00:11Z"}
{"event": "model_evicted", "variant": "a:1", "timestamp": "2026-01-01T00:00:20Z"}
"""


def test_a_workers_log_says_when_models_came_and_left() -> None:
    """Other lines say nothing of it; one that never left is in memory for good."""
    found = changes(LOG.splitlines())
    start_s = found[0].unix_s
    assert found == [Change("a:1", start_s, 0.5), Change("a:1", start_s + 9.5, None)]
    assert loads(found) == [(start_s - 0.5, start_s)]
    assert spans(found) == {"a:1": [(start_s, start_s + 9.5)]}
    assert spans([*found, Change("a:1", start_s + 12, 1.0)])["a:1"][1] == (start_s + 12, math.inf)


def test_requests_are_told_apart_by_what_was_in_memory() -> None:
    """Hits, misses and what ran beside a load are counted as such, and failures in both loads."""
    moves = [Change("a:1", 10.0, 1.0), Change("b:1", 20.0, 2.0), Change("a:1", 30.0, None)]
    calm = [Asked("a", 12.0, 4.0, "ok"), Asked("a", 13.0, 6.0, "503 overloaded")]
    beside = Asked("a", 19.0, 8.0, "ok")
    everything = [
        beside,
        Asked("a", 25.0, 5.0, "ok"),
        Asked("b", 19.5, 900.0, "ok"),
        Asked("a", 29.9995, 70.0, "ok"),
        Asked("c", 22.0, 1.0, "timeout"),
    ]
    resident = spans(moves)
    assert [is_hit(asked, resident) for asked in everything] == [True, True, False, False, False]
    assert overlaps(beside, loads(moves))
    assert not overlaps(everything[1], loads(moves))
    found = judge(calm, everything, moves)
    assert (found.asked, found.failed, found.hits) == (5, 2, 2)
    assert found.loading == Latency(1, 8.0, 8.0, 8.0)
    assert found.waited == Latency(2, 70.0, 900.0, 900.0)
    assert found.outcomes == {"ok": 5, "503 overloaded": 1, "timeout": 1}


def test_quantiles_are_values_that_were_seen() -> None:
    """By nearest rank, and there is none of nothing."""
    assert nearest([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert latency(float(value) for value in range(1, 101)) == Latency(100, 50.0, 99.0, 100.0)
    assert latency([]).p99_ms is None


def test_who_was_asked_is_what_was_sent(tmp_path: Path) -> None:
    """Each request goes to the model that its figures name, popular ones more often."""
    names = ["popular", "rare"]
    bodies = {name: body_of([float(index)]).decode() for index, name in enumerate(names)}

    async def answer(number: int) -> bytes:
        del number
        return OK

    async def scene() -> tuple[dict[str, list[object]], list[bytes]]:
        async with Server(answer) as server:
            plan = {
                "port": server.target.port,
                "headers": {"Content-Type": "application/json"},
                "models": [
                    {"path": f"/{name}", "body": bodies[name], "share": share}
                    for name, share in zip(names, (3.0, 1.0), strict=True)
                ],
                "rate_per_s": 200.0,
                "seconds": 1.0,
                "seed": 5,
                "connections": 64,
                "patience_s": 10.0,
            }
            file = tmp_path / "plan.json"
            file.write_text(json.dumps(plan))
            return await asyncio.to_thread(run_loop, file, 60.0), list(server.bodies)

    found, sent = asyncio.run(scene())
    assert set(found["outcomes"]) == {"ok"}
    asked = [names[int(str(number))] for number in found["models"]]
    assert sorted(bodies[name].encode() for name in asked) == sorted(sent)
    assert asked.count("popular") > 2 * asked.count("rare") > 0


def test_the_deck_holds_every_model() -> None:
    """However rare it is; who is drawn depends on the seed alone."""
    cards = deck([1e9, 1.0, 1.0])
    assert set(cards) == {0, 1, 2}
    assert drawn(cards, 50, 3) == drawn(cards, 50, 3) != drawn(deck([1.0, 1.0, 1.0]), 50, 3)


def many(most_rss_bytes: int, failed: int) -> Many:
    """Return a run of one round."""
    lived = Latency(100, 2.0, 4.0, 5.0)
    one = ManyRound(100, failed, 60, lived, Latency(40, 3.0, 6.0, 7.0), lived, {"ok": 200})
    loads_s = [0.01 * number for number in range(1, 101)]
    return Many(100, 20, 200, 5, 30.0, [one], loads_s, most_rss_bytes, 190, 1000, 0.5)


def shadow(p99_ms: float, over_per_s: float) -> Shadow:
    """Return a run of one round beside a shadow."""
    copies = {"agrees": 60, "differs": 10, "failed": 0, "dropped": 30}
    half = ShadowRound(offered(p99_ms=10.0), offered(p99_ms=p99_ms), copies)
    over = ShadowRound(offered(in_time_per_s=20.0), offered(in_time_per_s=over_per_s), copies)
    return Shadow(20.0, [half], over, 0.5)


@pytest.mark.parametrize(
    ("many_run", "shadow_run", "word"),
    [(many(220, 0), shadow(10.5, 19.0), "met"), (many(221, 1), shadow(10.6, 18.9), "NOT MET")],
)
def test_verdicts_and_report_of_hosting(many_run: Many, shadow_run: Shadow, word: str) -> None:
    """Each target is met at its bound and missed beyond it; the report tells what was seen."""
    run: Results = results()
    assert {verdict.word for verdict in verdicts(run)} == {"not measured"}
    run.many, run.shadow = many_run, shadow_run
    found = [verdict for verdict in verdicts(run) if verdict.met is not None]
    assert [verdict.word for verdict in found] == [word] * 4
    page = render(run)
    assert "Hit ratio 0.600; 100 loads, p50, p95, p99 500, 950, 990 ms." in page
    assert "1.50 and 1.50. What happened: ok 200." in page
    assert "| 0.300" in page


@pytest.mark.parametrize(("added_us", "word"), [(2.0, "met"), (2.1, "NOT MET")])
def test_verdicts_and_report_of_routing(added_us: float, word: str) -> None:
    """The median of the rounds counts for each way to ask; the report shows all of them."""
    run: Results = results()
    run.routing = {way: [0.1, added_us, 9.0] for way in ROUTED}
    found = [verdict for verdict in verdicts(run) if verdict.met is not None]
    assert [verdict.word for verdict in found] == [word] * len(ROUTED)
    assert re.search(rf"16 together, drawn +\| {added_us:.2f} +\| 0.10 to 9.00", render(run))


def test_the_routing_loop_names_what_is_held_to_a_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of its ways has a target of its own."""
    monkeypatch.setattr(routing_loop, "ROUNDS", 1)
    monkeypatch.setattr(routing_loop, "REQUESTS", 64)
    assert set(routing_loop.measure()) == set(ROUTED)
