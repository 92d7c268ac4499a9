"""A rollout that compares the mean of scores: from answers in a gateway to what is done."""

import asyncio
import json
import random
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from salver.control.rollouts.analyst import Analyst, with_columns
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.judging import captures
from salver.control.rollouts.lane import Lane
from salver.core.clock import ManualClock
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.exchange import Exchange, Record, keep_answer
from salver.core.request import InferenceResponse
from salver.core.rollouts import RolloutPolicy, check_policy
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.core.timing import Timing
from salver.gateway.evidence import EvidenceCounter
from salver.rollout.kayenta import MIN_VALUES
from salver.rollout.machine import (
    PROMOTED,
    ROLLED_BACK,
    RUNNING,
    Rollout,
    Tick,
    tick,
)
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

SCORES = {"name": "scores", "kind": "score", "max_increase": 0, "direction": "either"}
ANALYSIS = {
    "method": "kayenta", "slice_s": 1, "warmup_s": 0, "warmup_requests": 1,
    "metrics": [{**SCORES, "mean": True}],
}  # fmt: skip
SIGNATURE = Signature((), (TensorSpec("y", "FP32", (-1, 1)),))
REQUESTS = 30
Score = Callable[[str, random.Random], float]


class Course:
    """A gateway that counts and a control that looks once a second, without a network."""

    def __init__(self, analysis: dict[str, object]) -> None:
        policy = check_policy(RolloutPolicy(steps=(5000,), auto=True, analysis=analysis))
        self.rollout = Rollout(
            "e", 1, "m:1", "m:2", policy, "salt", 0, "alice", step=0, weight=5000
        )
        self.rng = random.Random(3)
        self.gateway = EvidenceCounter(ManualClock(), self.rng)
        self.books = EvidenceBooks()
        self.books.open("e", 1, {})
        self.epoch = 0
        self.stored: dict[str, bytes] = {}

    def restarted(self) -> None:
        """Go on with what is stored, as the next control does."""
        self.books = EvidenceBooks()
        self.books.open("e", 1, self.stored)

    def second(self, score: Score) -> None:
        """Let a second pass with requests to both arms, and look."""
        self.gateway([self._asked(arm, score) for arm in ("m:1", "m:2") for _ in range(REQUESTS)])
        for message in self.gateway.messages():
            self.books.take("g1", message)
        analyst = Analyst(self.books, None, None)  # type: ignore[arg-type]
        look = asyncio.run(analyst.look(self.rollout, None, Lane("look", ManualClock())))  # type: ignore[arg-type]
        before = self.rollout.columns
        seen = Tick(1.0, is_ready=True, is_primary_ready=True, requests=look.requests,
                    finding=look.finding, epoch=self.epoch)  # fmt: skip
        self.rollout, _ = tick(with_columns(self.rollout, look), seen)
        if self.rollout.columns != before:
            self._begin()
        self.stored |= self.books.unsaved("e", 1)

    def _begin(self) -> None:
        """Have the gateway count in a new weight epoch what the rollout asks for."""
        self.epoch += 1
        variants = tuple(
            VariantPlan(name, role, "m", name[-1], "", "onnx", 5000, self.epoch, SIGNATURE, ())
            for name, role in (("m:1", "primary"), ("m:2", "canary"))
        )
        columns = self.rollout.columns
        plan = EndpointPlan(
            "e", variants, salt="salt", evidence=columns, captures=captures(columns)
        )
        self.gateway.apply(Plan(1, self.epoch, (plan,)))
        assert self.books.begin(self.rollout, plan)

    def _asked(self, arm: str, score: Score) -> Record:
        place = self.rng.randrange(5000) + (0 if arm == "m:2" else 5000)
        context = RequestContext("id", ANONYMOUS, 0, 1, variant=arm)
        context.weight_epoch, context.place = self.epoch, place
        exchange = Exchange(context, "e", "http", "", 5_000_000, Timing())
        output = np.array([[score(arm, self.rng)]], np.float32)
        keep_answer(exchange, InferenceResponse([Tensor.from_array("y", output)]))
        return exchange


def moved(arm: str, rng: random.Random) -> float:
    """Return a score that never leaves the edges' bin, and is a fifth higher of the canary."""
    return rng.uniform(0.55, 0.75) + (0.13 if arm == "m:2" else 0.0)


def same(_: str, rng: random.Random) -> float:
    """Return a score of two equal versions."""
    return rng.uniform(0.55, 0.75)


OLDER = {"latencies", "thresholds_s", "labels", "score_edges", "feedback"}
"""What a layout said before scores were added up."""
EDGED = {**ANALYSIS, "score_edges": [0.5]}


@pytest.mark.parametrize(
    ("analysis", "score", "state"),
    [
        (ANALYSIS, moved, ROLLED_BACK),
        (EDGED, moved, ROLLED_BACK),
        ({**EDGED, "metrics": [SCORES]}, moved, PROMOTED),
        (ANALYSIS, same, PROMOTED),
    ],
    ids=["mean", "mean and shares", "shares alone", "equal versions"],
)
def test_the_mean_of_scores_decides(analysis: dict[str, object], score: Score, state: str) -> None:
    """A canary whose mean moves between the edges goes, and with shares alone it would stay.

    Control is restarted half-way, and nothing of it is lost.
    """
    course = Course(analysis)
    seconds = 0
    while course.rollout.state == RUNNING and seconds < 2 * MIN_VALUES:
        course.second(score)
        seconds += 1
        if seconds == MIN_VALUES // 2:
            course.restarted()
    assert (course.rollout.state, course.epoch) == (state, 2), course.rollout.reason
    assert MIN_VALUES <= seconds <= MIN_VALUES + 5
    assert ("scores is worse" in course.rollout.reason) == (state == ROLLED_BACK)
    assert course.rollout.reason.endswith("high: mean)") == (state == ROLLED_BACK)


def test_a_rollout_that_an_older_salver_began_goes_on() -> None:
    """Its stored blocks have no columns for means: they are read, and the same epoch goes on."""
    course = Course({**EDGED, "metrics": [SCORES]})
    for _ in range(10):
        course.second(same)
    block = json.loads(course.stored[f"block:{course.epoch}"])
    columns, epoch, requests = course.rollout.columns, course.epoch, course.rollout.requests
    for layout in (block["canary"], msgspec.msgpack.decode(columns)["canary"]):
        assert set(layout) == OLDER
    course.restarted()
    assert course.books.observed("e")[-1].canary.rows.any()
    course.second(same)
    assert (course.rollout.columns, course.epoch) == (columns, epoch)
    assert course.rollout.requests > requests
    assert course.rollout.state == RUNNING
