"""Reports of outcomes: genuine ids only, each once, and bad ones do not hinder good ones."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from salver.control.database import DatabaseThread
from salver.control.feedback import Feedback
from salver.core.clock import ManualClock
from salver.core.errors import EndpointNotFound, InvalidRequest, RequestNotFound, SalverError
from salver.core.feedback import Reported, Taken
from salver.core.ids import RequestIds
from salver.registry.database import Database
from salver.registry.feedback import FeedbackStore
from salver.registry.records import EndpointSpec
from salver.registry.state import StateStore
from tests import models
from tests.e2e.server import Server, write_rows

KEY = b"k" * 32


class World:
    """A store with endpoint ``e``, and its ids."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.ids = RequestIds(KEY, 1, self.clock)
        self.database = Database(f"sqlite:///{folder / 'salver.db'}")
        self.database.provision()
        state = StateStore(self.database, self.clock)
        state.put_endpoint(EndpointSpec("e", "m", 1))
        self.thread = DatabaseThread()
        self.store = FeedbackStore(self.database)
        self.feedback = Feedback(self.store, state, self.thread, self.ids, self.clock, 30)

    def sealed(self, endpoint: str = "e", version: int = 2) -> str:
        """Return the id of an answer."""
        return self.ids.seal(self.ids.make(), endpoint, version, 7, 12)

    def take(self, *reports: Reported | SalverError, endpoint: str = "e") -> Taken:
        """Report."""
        return uvloop.run(self.feedback.take(endpoint, reports))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give an empty store."""
    world = World(tmp_path)
    yield world
    world.thread.stop()
    world.database.close()


def test_an_outcome_finds_its_arm(world: World) -> None:
    """What the id says is what is counted; nothing is looked up."""
    assert world.take(Reported(world.sealed(), 1.0, "conversion")) == Taken(1, 0, ())
    (sums,) = world.store.sums("e", "conversion", [7])
    assert (sums.version, sums.weight_epoch, sums.place, sums.total) == (2, 7, 12, 1.0)


def test_good_ones_are_taken_whatever_others_are(world: World) -> None:
    """Each bad one is named by its number and code."""
    good, twice = world.sealed(), world.sealed()
    world.take(Reported(twice, 1.0))
    taken = world.take(
        Reported(good, 1.0),
        Reported("nonsense", 1.0),
        Reported(world.sealed("other"), 1.0),
        Reported(world.sealed()[:-1] + "x", 1.0),
        Reported(world.sealed(), float("nan")),
        Reported(world.sealed(), 1.0, "bad name"),
        InvalidRequest("no JSON"),
        Reported(twice, 1.0),
        Reported(twice, 0.0),
        Reported(world.sealed(), 1e200),
    )
    assert (taken.taken, taken.repeated) == (1, 1)
    assert [(problem.number, problem.code) for problem in taken.problems] == [
        (2, "request_not_found"),
        (3, "request_not_found"),
        (4, "request_not_found"),
        (5, "invalid_request"),
        (6, "invalid_name"),
        (7, "invalid_request"),
        (9, "feedback_differs"),
        (10, "invalid_request"),
    ]


def test_metrics_that_are_too_many_are_refused_one_by_one(world: World) -> None:
    """A caller who makes up names fills nothing; the reports before them are taken."""
    request_id = world.sealed()
    taken = world.take(*(Reported(request_id, 1.0, f"m{i}") for i in range(10)))
    assert (taken.taken, taken.repeated) == (8, 0)
    assert [(p.number, p.code) for p in taken.problems] == [
        (9, "invalid_request"),
        (10, "invalid_request"),
    ]
    again = world.take(*(Reported(request_id, 1.0, f"m{i}") for i in range(10)))
    assert (again.taken, again.repeated, len(again.problems)) == (0, 8, 2)


def test_a_made_up_arm_is_refused(world: World) -> None:
    """Somebody who changes the version in an id does not reach its count."""
    request_id = world.sealed(version=1)
    forged = request_id[:24] + f"{2:08x}" + request_id[32:]
    (problem,) = world.take(Reported(forged, 1.0)).problems
    assert problem.code == "request_not_found"


def test_what_is_too_old_is_refused(world: World) -> None:
    """Also what claims to come from the future, which a clock that was set back can make."""
    old = world.sealed()
    world.clock.advance(31 * 86_400)
    (problem,) = world.take(Reported(old, 1.0)).problems
    assert problem.code == "feedback_expired"
    ahead = ManualClock()
    ahead.advance(40 * 86_400)
    ids = RequestIds(KEY, 1, ahead)
    (problem,) = world.take(Reported(ids.seal(ids.make(), "e", 2, 7, 12), 1.0)).problems
    assert problem.code == "feedback_expired"


def test_an_answer_of_a_single_version_counts_for_no_arm(world: World) -> None:
    """It is kept, and compared with nothing."""
    assert world.take(Reported(world.ids.make(), 1.0)).taken == 1
    assert world.store.sums("e", "outcome", [7]) == []
    assert world.store.count("e") == {"outcome": 1}


def test_an_endpoint_has_to_be_there(world: World) -> None:
    """Names of none are refused as a whole."""
    with pytest.raises(EndpointNotFound):
        world.take(Reported(world.sealed(), 1.0), endpoint="nobody")


def test_reports_reach_a_server(tmp_path: Path) -> None:
    """Command line, client, files with broken lines; the id is the one that the answer had."""
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    with Server(tmp_path / "home") as server:
        server.push(models.onnx_identity("FP32", 2), "m", "--example", str(rows))
        server.ok("deploy", "m")
        with server.client() as client:
            ids = [client.predict("m", [[1.0, 2.0]]).request_id for _ in range(3)]
            client.feedback("m", ids[0], 1.0, "conversion")
            client.feedback("m", ids[0], 1.0, "conversion")
            with pytest.raises(RequestNotFound):
                client.feedback("m", "0" * 40, 1.0)
        assert "is counted" in server.ok("feedback", "m", "--request-id", ids[1], "--value", "0")
        lines = tmp_path / "outcomes.jsonl"
        lines.write_text(
            json.dumps({"request_id": ids[2], "value": True})
            + "\n{broken\n\n"
            + json.dumps({"request_id": ids[1], "value": 0})
            + "\n"
            + json.dumps({"request_id": ids[1], "valeu": 0})
            + "\n"
        )
        done = server.salver("feedback", "m", "-f", str(lines))
        assert done.returncode == 1
        assert done.stdout.decode().startswith("1 taken, 1 known already, 2 refused")
        assert "line 2: no JSON" in done.stderr.decode()
        assert "line 5: unknown key 'valeu'" in done.stderr.decode()
        table = tmp_path / "outcomes.csv"
        table.write_text(f"request_id,value,metric\n{ids[1]},0.5,revenue\n{ids[2]},much,revenue\n")
        done = server.salver("feedback", "m", "-f", str(table))
        assert done.stdout.decode().startswith("1 taken, 0 known already, 1 refused")
        assert "line 3: value 'much' is no number" in done.stderr.decode()
        assert server.salver("feedback", "m", "--value", "1").returncode == 2
