"""What it costs to route a request, in memory: `python -m bench.routing_loop`.

The handler behind the router does nothing. The least of several rounds is shown, in microseconds
of processor time a request, as JSON; `bench/run.sh --part routing` prints a table.
"""

import json
import random
import time
from collections.abc import Callable, Sequence

import numpy as np

from salver.core.clock import SystemClock
from salver.core.cohort import Cohort
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.errors import SalverError
from salver.core.handler import Responder
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest, InferenceResponse, form_of
from salver.core.routing import Routing
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.traffic.router import Router
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

ROUNDS, REQUESTS, TOGETHER, CALLERS = 5, 20_000, 16, 500
IDS = RequestIds(b"k" * 32, 1, SystemClock())
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))
REQUEST = InferenceRequest("e", [Tensor.from_array("x", np.zeros((1, 2), np.float32))])
KEYED = Routing("header:x-user")


class Nothing:
    """Handler, audience and responder that do nothing."""

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Do nothing."""

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Do nothing."""

    def seated(self, cohort: Cohort) -> None:
        """Do nothing."""

    def answer(self, pieces: object, response: object) -> None:
        """Do nothing."""

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return itself."""
        del cohort, index, request, context
        return self

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Do nothing."""

    def fail(self, error: SalverError) -> None:
        """End the measurement: nothing here may fail."""
        raise error


NOTHING = Nothing()


def router(canary: int, routing: Routing) -> Router:
    """Return a router for an endpoint whose canary has this weight; 0 for no canary."""
    parts = [("1", "primary", 10_000 - canary)] + ([("2", "canary", canary)] if canary else [])
    variants = tuple(
        VariantPlan(f"m:{number}", role, "m", number, "0" * 64, "onnx", weight, 1, SIGNATURE, ())
        for number, role, weight in parts
    )
    endpoint = EndpointPlan("e", variants, routing=routing, headers=routing.headers)
    made = Router(NOTHING, random.Random(0), IDS)
    made.apply(Plan(1, 0, (endpoint,)))
    return made


def alone(made: Router) -> float:
    """Return the time of a request that comes by itself, in seconds."""
    contexts = [RequestContext(IDS.make(), ANONYMOUS, 0, 1) for _ in range(REQUESTS)]
    for index, context in enumerate(contexts):
        context.headers = {"x-user": f"u{index % CALLERS}"}
    started_s = time.process_time()
    for context in contexts:
        made(REQUEST, context, NOTHING)
    return (time.process_time() - started_s) / REQUESTS


def together(made: Router) -> float:
    """Return the time of one of several requests that come together, in seconds."""
    form = form_of(REQUEST)
    cohorts = [
        Cohort(
            InferenceRequest("e", [], form=form),
            RequestContext("", ANONYMOUS, 0, 1),
            NOTHING,
            [*range(TOGETHER)],
            IDS.make_many(TOGETHER),
            [None] * TOGETHER,
            [b"\0" * 8] * TOGETHER,
        )
        for _ in range(REQUESTS // TOGETHER)
    ]
    started_s = time.process_time()
    for cohort in cohorts:
        made.many([cohort])
    return (time.process_time() - started_s) / (len(cohorts) * TOGETHER)


def measure() -> dict[str, tuple[float, float]]:
    """Return, for each way to ask, microseconds with one version, and with a canary beside it."""
    one, drawn = router(0, Routing()), router(500, Routing())
    ways: dict[str, tuple[Callable[[Router], float], Router]] = {
        "alone, drawn": (alone, drawn),
        "alone, key in a header": (alone, router(500, KEYED)),
        f"{TOGETHER} together, drawn": (together, drawn),
    }
    found = {}
    for way, (one_round, canary) in ways.items():
        # In turn, so that a slow moment of the machine is in both.
        pairs = [(one_round(one), one_round(canary)) for _ in range(ROUNDS)]
        found[way] = (1e6 * min(p[0] for p in pairs), 1e6 * min(p[1] for p in pairs))
    return found


def main() -> None:
    """Print for each way to ask what it costs with one version, and with a canary beside it."""
    print(json.dumps(measure()))


if __name__ == "__main__":
    main()
