"""What webhooks are told of a change of a rollout. Pure."""

from typing import Any, NamedTuple

from salver.core.routing import FULL
from salver.core.webhooks import (
    BEFORE_STEP,
    WHEN_PAUSED,
    WHEN_PROMOTED,
    WHEN_ROLLED_BACK,
    Webhook,
)
from salver.rollout.states import Rollout, Transition

_EVENTS = {
    "ask": BEFORE_STEP,
    "promote": WHEN_PROMOTED,
    "roll_back": WHEN_ROLLED_BACK,
    "pause": WHEN_PAUSED,
}


class Notice(NamedTuple):
    """One webhook and what it is told, but for the delivery's own id."""

    webhook: Webhook
    event: str
    facts: dict[str, Any]


def notices(after: Rollout, line: Transition) -> list[Notice]:
    """Return what webhooks are told of a change; steps count from 1, weights are percents."""
    event = _EVENTS.get(line.kind, "")
    step, weight = line.step, line.weight
    if event == BEFORE_STEP:
        assert after.asked is not None
        step, weight = after.asked.step, _asked_weight(after)
    facts = {
        "event": event,
        "endpoint": after.endpoint,
        "rollout": after.number,
        "sequence": line.sequence,
        "from": after.source,
        "to": after.target,
        "digest": after.digest,
        "state": after.state,
        "awaits": after.awaits,
        "step": step + 1,
        "steps": len(after.policy.steps),
        "weight": weight / 100,
        "actor": line.actor,
        "reason": line.reason,
    }
    return [
        Notice(hook, event, {**facts, "webhook": hook.name})
        for hook in after.policy.webhooks
        if event in hook.on
    ]


def _asked_weight(rollout: Rollout) -> int:
    asked, steps = rollout.asked, rollout.policy.steps
    assert asked is not None
    if asked.wish is not None:
        return asked.wish.weight if asked.wish.kind == "weight" else FULL
    return steps[asked.step]
