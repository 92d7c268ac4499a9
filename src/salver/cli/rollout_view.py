"""Rollouts as text for people."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

STATES = ("promoted", "rolled_back")


def status_lines(rollout: dict[str, Any]) -> Iterator[str]:
    """Return the lines that tell how a rollout is."""
    weights = ", ".join(f"{name} {part:g} %" for name, part in rollout["weights"].items())
    total = len(rollout["steps"])
    step = f", step {rollout['step']} of {total}" if total else ""
    yield f"{rollout['endpoint']}: rollout {rollout['rollout']} ({rollout['strategy']}) is " + (
        rollout["state"] + (f", awaiting {rollout['awaits']}" * bool(rollout["awaits"])) + step
    )
    if back := rollout.get("taken_back"):
        came_from = f"from {back['from']} " if back["from"] else ""
        yield (
            f"  taken back since: {came_from}to {back['to']}, by {back['actor']} at "
            f"{_time(back['unix_ms'])}: {back['reason']}"
        )
    yield f"  {weights}; {rollout['requests']} requests to {rollout['to']}"
    for metric in rollout["metrics"]:
        yield f"  {_metric(metric)}"
    if gaps := rollout.get("gaps", 0):
        times = f"{gaps} time{'s' * (gaps != 1)}"
        yield f"  left out: {times} in which the primary could not answer"
    if rollout["reason"]:
        yield f"  because: {rollout['reason']}"
    needed, by = rollout["approvals"]["needed"], rollout["approvals"]["by"]
    if needed:
        yield f"  approvals: {len(by)} of {needed}" + (f" ({', '.join(by)})" * bool(by))
    for told in rollout.get("webhooks", ()):
        yield f"  {_delivery(told)}"
    if rollout["time_left_s"] is not None and rollout["state"] not in STATES:
        yield f"  time left: {rollout['time_left_s']:.0f} s"
    if rollout.get("frozen"):
        yield f"  frozen by {rollout['frozen']['actor']}: {rollout['frozen']['reason']}"
    yield f"  next: {rollout['next']}"


def event_lines(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a history as a table."""
    return [
        {
            "time": _time(event["unix_ms"]),
            "rollout": event["rollout"],
            "event": event["event"],
            "by": event["actor"],
            "state": event["state"],
            "weight": "" if event["weight"] is None else f"{event['weight']:g} %",
            "reason": event["reason"],
        }
        for event in events
    ]


def _delivery(told: dict[str, Any]) -> str:
    tries = f"{told['attempts']} attempt{'s' * (told['attempts'] != 1)}"
    why = f": {told['reason']}" if told["reason"] else ""
    return f"webhook {told['webhook']}: {told['event']} {told['state']}, {tries}{why}"


def _metric(metric: dict[str, Any]) -> str:
    sizes = f"{metric['n_canary']} and {metric['n_primary']} requests"
    return (
        f"{metric['name']}: {metric['verdict']}, {_size(metric['estimate'])} "
        f"[{_interval(metric['low'], metric['high'])}], margin {metric['margin']:g}, {sizes}"
    )


def _interval(low: float | None, high: float | None) -> str:
    if low is not None and high is None:
        return f"{_size(low)} or more"
    if high is not None and low is None:
        return f"{_size(high)} or less"
    return f"{_size(low)}, {_size(high)}"


def _size(value: float | None) -> str:
    return "?" if value is None else f"{value:+.3g}"


def _time(unix_ms: int) -> str:
    moment = dt.datetime.fromtimestamp(unix_ms / 1000, dt.UTC)
    return moment.isoformat(" ", "seconds").removesuffix("+00:00")
