"""How much memory a shared worker may use for its models."""

from salver.core.hosting import SHARED
from salver.core.settings import EngineSettings
from salver.wire.messages import Plan


def budget_of(plan: Plan, engine: EngineSettings, allowed_bytes: int = 0) -> int:
    """Return the memory budget of each shared worker of a plan; 0 means none.

    Workers that replace one another (``shared-0`` and ``shared-0.1``) have one part of the node's
    budget between them, and of what a container is ``allowed_bytes``, 0 for any.
    """
    shared = {w.id.partition(".")[0] for w in plan.workers if w.kind == SHARED}
    workers = max(1, len(shared))
    node_bytes = engine.node_memory_budget_bytes
    bounds = (engine.memory_budget_bytes, node_bytes // workers)
    budget_bytes = min((bound for bound in bounds if bound), default=0)
    if budget_bytes and allowed_bytes:
        return min(budget_bytes, allowed_bytes // workers)
    return budget_bytes
