"""Rollouts and their events as they are stored."""

from typing import Any

import msgspec

from salver.registry.records import RolloutEvent, RolloutRecord
from salver.rollout.machine import Rollout, Transition
from salver.rollout.returning import gone_back
from salver.rollout.states import Return


def rollout_of(record: RolloutRecord) -> Rollout:
    """Return a stored rollout."""
    return msgspec.json.decode(record.body, type=Rollout)


def record_of(rollout: Rollout) -> RolloutRecord:
    """Return a rollout as it is stored."""
    return RolloutRecord(
        rollout.endpoint,
        rollout.number,
        rollout.is_active,
        rollout.sequence,
        msgspec.json.encode(rollout),
    )


def line_of(transition: Transition) -> bytes:
    """Return a change as it is stored in a history."""
    return msgspec.json.encode(transition)


def line_of_return(stored: RolloutRecord, back: Return) -> tuple[RolloutRecord, bytes]:
    """Return a rollout that has ended, and the line of its history, once its endpoint went back."""
    after, transition = gone_back(rollout_of(stored), back)
    return record_of(after), line_of(transition)


def shown(event: RolloutEvent) -> dict[str, Any]:
    """Return an entry of a history as the API shows it."""
    line = msgspec.json.decode(event.body, type=Transition)
    return {
        "rollout": event.number,
        "sequence": event.sequence,
        "unix_ms": event.unix_ms,
        "event": line.kind,
        "actor": line.actor,
        "state": line.state,
        "step": line.step + 1,
        "weight": line.weight / 100,
        "reason": line.reason,
        "evidence": line.evidence,
    }
