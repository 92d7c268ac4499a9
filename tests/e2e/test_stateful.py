"""Deploy, undeploy, scale, kill, cancel, poison and ask in any order: nothing is lost or leaked."""

import functools
import http.client
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests import models
from tests.e2e import census
from tests.e2e.faulty import KILLS, SOURCE
from tests.e2e.server import Server, ask, wait_until
from tests.e2e.test_code import one_number, write

QUICK = """
control: {snapshot_interval_s: 0.2, reconcile_interval_s: 0.2}
supervisor: {backoff_initial_s: 0.05, backoff_max_s: 0.2}
limits: {breaker: false}
"""
NAMES = ("scaled", "faulty")
ANSWERED = "200"
REFUSED = "503 not_ready"
GONE = "404 endpoint_not_found"
ASKING = 4
WAIT_S = 20.0


Step = Callable[..., None]


def noted(step: Step) -> Step:
    """Keep what went wrong first: what comes of playing it again is another story."""

    @functools.wraps(step)
    def run(play: "Play", **arguments: Any) -> None:
        told = ", ".join(f"{name}={value}" for name, value in arguments.items())
        play.steps.append(f"{step.__name__}({told})")
        try:
            step(play, **arguments)
        except Exception as error:
            error.add_note("after " + ", ".join(play.steps))
            play.failures.append(error)
            raise

    return run


class Play(RuleBasedStateMachine):
    """One server, what it was told, and what it must hold.

    ``known`` is what the processes held when the same ones ran for the first time.
    """

    server: ClassVar[Server]
    known: ClassVar[dict[frozenset[str], dict[str, Counter[str]]]]
    memory: ClassVar[set[str]]
    failures: ClassVar[list[Exception]]

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[str, int] = {}
        self.steps: list[str] = []

    @initialize()
    def begin(self) -> None:
        """Begin without endpoints."""
        with self.server.client() as client:
            for one in client.endpoints():
                client.undeploy(one["name"])

    @rule(name=st.sampled_from(NAMES), replicas=st.integers(1, 2))
    @noted
    def deploy(self, name: str, replicas: int) -> None:
        """Deploy or scale, while everything that serves is asked; all of that is answered."""
        with self.asking(*self.wanted) as seen, self.server.client() as client:
            client.deploy(name, replicas=replicas)
        assert set(seen) <= {ANSWERED}, seen
        self.wanted[name] = replicas

    @precondition(lambda self: self.wanted)
    @rule(choice=st.integers(0, 1))
    @noted
    def undeploy(self, choice: int) -> None:
        """Take an endpoint away while it is asked; it answers, or says that it is gone."""
        name = sorted(self.wanted)[choice % len(self.wanted)]
        del self.wanted[name]
        with (
            self.asking(name) as seen,
            self.asking(*self.wanted) as others,
            self.server.client() as client,
        ):
            client.undeploy(name)
        assert set(seen) <= {ANSWERED, GONE, REFUSED}, seen
        assert set(others) <= {ANSWERED}, others

    @precondition(lambda self: self.wanted)
    @rule(choice=st.integers(0, 7))
    @noted
    def kill(self, choice: int) -> None:
        """kill -9 of any worker, quarantines included, amid requests.

        Who has another replica answers all of them, the others may refuse what is new.
        """
        workers = sorted(name for name in census.processes(self.server) if "-" in name)
        workers = [name for name in workers if not name.startswith("gateway")]
        with self.asking(*self.wanted) as seen:
            self.server.kill(workers[choice % len(workers)])
        alone = min(self.wanted.values()) == 1
        assert set(seen) <= ({ANSWERED, REFUSED} if alone else {ANSWERED}), seen

    @precondition(lambda self: self.wanted)
    @rule(count=st.integers(1, 20))
    @noted
    def infer(self, count: int) -> None:
        """Ask when all is quiet: each is answered, and gets its own answer."""
        for name in self.wanted:
            with ThreadPoolExecutor(8) as pool:
                numbers = [float(index + 1) for index in range(count)]
                outcomes = Counter(pool.map(lambda n, name=name: self.outcome(name, n), numbers))
            assert outcomes == {ANSWERED: count}

    @precondition(lambda self: self.wanted)
    @rule(count=st.integers(1, 20))
    @noted
    def cancel(self, count: int) -> None:
        """Leave before the answer, amid others who stay and are answered."""
        with self.asking(*self.wanted) as seen:
            for index in range(count):
                name = sorted(self.wanted)[index % len(self.wanted)]
                leave_early(self.server.port, name)
        assert set(seen) <= {ANSWERED}, seen

    @precondition(lambda self: "faulty" in self.wanted)
    @rule()
    @noted
    def poison(self) -> None:
        """A request that kills its process twice gets a code; others are answered beside it."""
        with self.asking(*self.wanted) as seen:
            assert self.outcome("faulty", KILLS) == "500 worker_crashed"
        alone = self.wanted["faulty"] == 1
        assert set(seen) <= ({ANSWERED, REFUSED} if alone else {ANSWERED}), seen

    @invariant()
    @noted
    def nothing_is_left(self) -> None:
        """No slot, descriptor, memory, file or process is held that was not held before."""
        wait_until(self.settled, "everything that is wanted serves, and nothing else runs")
        for name in self.wanted:
            assert self.outcome(name, 3.0) == ANSWERED
        none(self.slots)
        none(lambda: census.strays(self.server))
        none(lambda: census.left_behind(self.server))
        none(lambda: census.shared_memory() - self.memory)
        present = frozenset(census.processes(self.server))
        if present not in self.known:
            # What comes and goes by itself may be gone at one look.
            self.known[present] = census.most(self.server)
        known = self.known[present]
        try:
            none(lambda: census.grown(known, census.take(self.server)))
        except AssertionError as error:
            error.add_note(f"known: {known}")
            error.add_note("\n".join(census.sockets(self.server)))
            raise

    def settled(self) -> bool:
        """Tell whether what runs is what is wanted, and the gateway has a link to each worker."""
        try:
            held = census.take(self.server)
        except (LookupError, OSError):
            return False
        workers = held.keys() - {"gateway-0", "control"}
        with self.server.client() as client:
            ready = {one["name"]: one["ready_replicas"] for one in client.endpoints()}
        return (
            ready == self.wanted
            and workers == self.workers()
            and held["gateway-0"][census.LEDGERS] == len(workers)
            and all(held[name][census.LEDGERS] == 1 for name in workers)
        )

    def workers(self) -> set[str]:
        """Return the workers that there should be: replicas, and a quarantine of each kind."""
        scaled, faulty = (self.wanted.get(name, 0) for name in NAMES)
        return {
            *(f"shared-{index}" for index in range(max(1, scaled))),
            *(f"dedicated-faulty-1-{index}" for index in range(faulty)),
            *(["quarantine-0"] * bool(scaled)),
            *(["quarantine-faulty-1"] * bool(faulty)),
        }

    def slots(self) -> float:
        """Return how many requests the gateway counts as open, in any of its ways."""
        names = ("salver_requests_in_flight", "salver_requests_open")
        return sum(self.server.gateway_metric(name) or 0.0 for name in names)

    def outcome(self, name: str, number: float) -> str:
        """Ask once; returns the status with the code of an error. A wrong answer fails."""
        status, document = ask(self.server.port, name, number)
        if status == http.client.OK:
            assert document["outputs"][0]["data"] == [2.0 * number]
            return str(status)
        return f"{status} {document['code']}"

    @contextmanager
    def asking(self, *names: str) -> Iterator[Counter[str]]:
        """Ask these endpoints without a pause meanwhile; gives what became of the requests."""
        seen: Counter[str] = Counter()
        over = threading.Event()

        def ask_on(index: int) -> None:
            number = float(index)
            while True:
                number += ASKING
                seen[self.outcome(names[index % len(names)], number)] += 1
                if over.is_set():
                    return

        with ThreadPoolExecutor(ASKING) as pool:
            asking = [pool.submit(ask_on, index) for index in range(ASKING if names else 0)]
            try:
                yield seen
            finally:
                over.set()
            for one in asking:
                one.result()


def none(look: Callable[[], object]) -> None:
    """Wait until a look at the server finds nothing; fails with what it found."""
    deadline = time.monotonic() + WAIT_S
    while found := looked(look):
        assert time.monotonic() < deadline, f"left after {WAIT_S} s: {found}"
        time.sleep(0.05)


def looked(look: Callable[[], object]) -> object:
    """Return what a look finds; something, while processes come and go."""
    try:
        return look()
    except (LookupError, OSError, psutil.Error) as error:
        return f"moving: {error}"


def leave_early(port: int, name: str) -> None:
    """Send a request and close the connection at once."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": [tensor]}))
    connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Give a server that knows a declarative model and one that is code."""
    # Socket paths are at most 107 bytes long, pytest's own folders can be longer.
    folder = Path(tempfile.mkdtemp(prefix="stateful-"))
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text(QUICK)
    try:
        with Server(home) as running:
            running.push_scaled(folder, path=models.onnx_slow(2))
            example = one_number(folder / "faulty.json", 2.0)
            path = write(folder / "faulty", SOURCE)
            running.push(path, "faulty", "--trust-code", "--example", str(example))
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_any_order_leaks_nothing_and_answers_everybody(server: Server) -> None:
    """After each step no slot, descriptor, file, memory or process is left that was not there.

    And every request has had its answer, or the code that its situation allows.
    """
    Play.server, Play.known, Play.memory = server, {}, census.shared_memory()
    Play.failures = []
    try:
        run_state_machine_as_test(
            Play,
            settings=settings(
                max_examples=6,
                stateful_step_count=12,
                deadline=None,
                derandomize=True,
                # Shrinking would play for an hour; the steps of a failure are printed as they are.
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception:
        if Play.failures:
            raise Play.failures[0] from None
        raise
