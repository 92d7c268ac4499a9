"""From a rollout's changes to what webhooks are told, and back to what they say."""

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from salver.core.webhooks import WHEN_ROLLED_BACK
from salver.registry.database import First
from salver.registry.records import Delivery, EndpointSpec
from salver.registry.webhooks import DELIVERED, WAITING, DeliveryStore
from salver.rollout.machine import Answer, Rollout, Transition
from salver.rollout.notices import Notice, notices

_ID_BYTES = 16
_WORDS = {
    "refused": "said no",
    "undelivered": "could not be asked",
    "withdrawn": "is asked no more",
}


def told(store: DeliveryStore, after: Rollout, line: Transition) -> First:
    """Return what is to be written with a change, so that webhooks are told of it."""
    new = [_delivery(notice, after.number, line.sequence) for notice in notices(after, line)]
    asked = after.asked.sequence if after.asked is not None else None

    def write(connection: sa.Connection) -> None:
        if after.asks:
            store.withdraw_within(connection, after.endpoint, after.number, asked)
        store.add_within(connection, new)

    return write


def told_of_return(store: DeliveryStore, spec: EndpointSpec, facts: dict[str, Any]) -> First:
    """Return the same for an endpoint that goes back to what it was, after any rollout.

    ``facts`` are ``from``, ``to``, ``actor`` and ``reason``.
    """
    event = WHEN_ROLLED_BACK
    shared = {"event": event, "endpoint": spec.name, "rollout": 0, "sequence": spec.generation}
    new = [
        _delivery(
            Notice(hook, event, {**shared, "state": event, **facts, "webhook": hook.name}),
            0,
            spec.generation,
        )
        for hook in spec.webhooks or ()
        if event in hook.on
    ]
    return lambda connection: store.add_within(connection, new)


def answer_of(asked: Sequence[Delivery]) -> Answer | None:
    """Return what webhooks say together: no as soon as one does, yes when all have."""
    if not asked:
        return Answer(False, "what webhooks were asked is not known any more")
    for item in asked:
        if item.state in _WORDS:
            return Answer(False, f"webhook {item.webhook.name} {_WORDS[item.state]}: {item.reason}")
    if all(item.state == DELIVERED for item in asked):
        return Answer(True)
    return None


def shown(item: Delivery) -> dict[str, Any]:
    """Return a delivery as the API shows it; its URL may hold a secret and is left out."""
    return {
        "id": item.id,
        "webhook": item.webhook.name,
        "event": item.event,
        "rollout": item.number,
        "sequence": item.sequence,
        "state": item.state,
        "attempts": item.attempts,
        "status": item.status or None,
        "reason": item.reason,
        "unix_ms": item.unix_ms,
    }


def as_event(item: Delivery) -> dict[str, Any]:
    """Return a delivery as an entry of a history."""
    tries = f"{item.attempts} attempt{'s' * (item.attempts != 1)}"
    state = "is on its way" if item.state == WAITING else item.state
    return {
        "rollout": item.number,
        "sequence": item.sequence,
        "unix_ms": item.unix_ms,
        "event": "webhook",
        "actor": f"webhook {item.webhook.name}",
        "state": item.state,
        "step": None,
        "weight": None,
        "reason": f"{item.event} {state}, {tries}" + (f": {item.reason}" if item.reason else ""),
        "evidence": {"delivery": shown(item)},
    }


def _delivery(notice: Notice, number: int, sequence: int) -> Delivery:
    identity = secrets.token_hex(_ID_BYTES)
    body = msgspec.json.encode({"id": identity, **notice.facts})
    endpoint = notice.facts["endpoint"]
    return Delivery(identity, endpoint, number, sequence, notice.event, notice.webhook, body)
