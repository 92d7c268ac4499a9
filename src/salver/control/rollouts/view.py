"""Rollouts as the API shows them."""

from typing import Any

from salver.core.rollouts import MANUAL
from salver.core.routing import FULL
from salver.core.webhooks import BEFORE_STEP
from salver.registry.records import Freeze, PreviousState
from salver.rollout.machine import (
    APPROVAL,
    PAUSED,
    PREPARING,
    PROMOTION,
    RUNNING,
    Finding,
    Rollout,
)
from salver.rollout.states import Return

_ENDS_PAUSE = {APPROVAL: "approve", PROMOTION: "promote"}


def shown(rollout: Rollout, finding: Finding | None) -> dict[str, Any]:
    """Return a rollout with its newest finding; weights in percent, steps counted from 1."""
    policy = rollout.policy
    limit_s = policy.max_duration_s
    return {
        "endpoint": rollout.endpoint,
        "rollout": rollout.number,
        "state": rollout.state,
        "strategy": policy.strategy,
        "from": rollout.source,
        "to": rollout.target,
        "step": rollout.step + 1,
        "steps": [step / 100 for step in policy.steps],
        "weights": _weights(rollout),
        "requests": rollout.requests,
        "step_requests": rollout.requests - rollout.step_requests,
        "auto": policy.auto,
        "metrics": _metrics(finding),
        "gaps": len(rollout.gaps),
        "time_left_s": max(0.0, limit_s - rollout.running_s) if limit_s else None,
        "reason": rollout.reason,
        "taken_back": _return(rollout.taken_back),
        "awaits": rollout.awaits or ("webhooks" if rollout.asked is not None else ""),
        "approvals": {"needed": rollout.approvals, "by": list(rollout.approved_by)},
        "next": what_next(rollout, finding),
        "created_unix_ms": rollout.created_unix_ms,
        "created_by": rollout.created_by,
    }


def what_next(rollout: Rollout, finding: Finding | None) -> str:
    """Say what happens next, or what a person may do."""
    name = rollout.endpoint
    if rollout.asked is not None:
        hooks = ", ".join(h.name for h in rollout.policy.webhooks if BEFORE_STEP in h.on)
        return f"waits for the answers of webhooks: {hooks}"
    if rollout.state == PAUSED:
        what = _ENDS_PAUSE.get(rollout.awaits, "resume")
        return f"waits for 'salver rollout {what} {name}' or 'salver rollout abort {name}'"
    if rollout.state != RUNNING:
        return "nothing; it has ended"
    if rollout.step == PREPARING:
        return f"gives {rollout.target} traffic when it is loaded and its examples pass"
    if rollout.policy.strategy == MANUAL:
        return f"waits for 'salver rollout set-weight {name} PERCENT' or 'salver rollout promote'"
    return _next_step(rollout, finding)


def _next_step(rollout: Rollout, finding: Finding | None) -> str:
    policy = rollout.policy
    goal = "the promotion" if rollout.is_last else f"{policy.steps[rollout.step + 1] / 100:g} %"
    missing = policy.min_requests - (rollout.requests - rollout.step_requests)
    if missing > 0:
        return f"{goal} after {missing} more requests to the canary"
    if rollout.step_s < policy.step_s:
        return f"{goal} after {policy.step_s - rollout.step_s:.0f} s more"
    why = finding.reason if finding is not None else "there is no comparison yet"
    return f"{goal} when the comparison allows it: {why}"


def earlier(state: PreviousState | None) -> dict[str, Any] | None:
    """Return what an endpoint was before."""
    if state is None:
        return None
    spec = state.spec
    return {
        "model": spec.model,
        "version": spec.version,
        "in_memory_s": max(0.0, state.left_s),
        "unix_ms": state.unix_ms,
    }


def frozen(state: Freeze | None) -> dict[str, Any] | None:
    """Return why an endpoint is frozen."""
    if state is None:
        return None
    return {"reason": state.reason, "actor": state.actor, "unix_ms": state.unix_ms}


def _weights(rollout: Rollout) -> dict[str, float]:
    """Return the percent of each version, as it ended or was left afterwards."""
    back = rollout.taken_back
    if back is not None:
        return {rollout.source: 0.0, rollout.target: 0.0, back.target: FULL / 100}
    return {
        rollout.source: (FULL - rollout.weight) / 100,
        rollout.target: rollout.weight / 100,
    }


def _return(back: Return | None) -> dict[str, Any] | None:
    if back is None:
        return None
    return {
        "from": back.source,
        "to": back.target,
        "actor": back.actor,
        "reason": back.reason,
        "unix_ms": back.unix_ms,
    }


def _metrics(finding: Finding | None) -> list[dict[str, Any]]:
    return list(finding.evidence.get("metrics", ())) if finding is not None else []
