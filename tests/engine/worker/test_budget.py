"""What of a node's memory each shared worker may use."""

import pytest

from salver.core.settings import EngineSettings
from salver.engine.worker.budget import budget_of
from salver.wire.messages import Plan, WorkerPlan

PLAN = Plan(
    1,
    0,
    workers=tuple(
        WorkerPlan(name, name.partition("-")[0], f"unix:/{name}")
        for name in ("shared-0", "shared-0.1", "shared-1", "dedicated-x")
    ),
)


@pytest.mark.parametrize(
    ("own", "node", "allowed", "budget"),
    [
        (0, 0, 0, 0),
        (0, 0, 1000, 0),
        (300, 0, 0, 300),
        (0, 1000, 0, 500),
        (300, 1000, 0, 300),
        (700, 1000, 0, 500),
        (300, 0, 1000, 300),
        (800, 0, 1000, 500),
        (0, 4000, 1000, 500),
        (0, 1000, 4000, 500),
    ],
)
def test_a_budget_is_the_least_of_what_was_said(
    own: int, node: int, allowed: int, budget: int
) -> None:
    """The worker's own, its part of the node's, and its part of what the container may have.

    Without the first two all models stay, whatever a container may have.
    """
    engine = EngineSettings(memory_budget_bytes=own, node_memory_budget_bytes=node)
    assert budget_of(PLAN, engine, allowed) == budget
