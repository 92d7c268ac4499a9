"""Calls to the control API about shadows and experiments."""

from collections.abc import Sequence
from typing import Any

from salver.client.calls import Steps, admin_call, json_of
from salver.client.rollouts import whoever
from salver.core.names import check_name

Json = dict[str, Any]


def start_shadow(endpoint: str, version: str | int, sample: float, *, force: bool) -> Steps[Json]:
    """Copy a share of an endpoint's requests to a version."""
    body = {"version": str(version), "sample": sample, "force": force, "by": whoever()}
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, "shadow"), body)))
    return answer


def start_experiment(
    endpoint: str,
    arms: Sequence[str | int],
    split: Sequence[float],
    metric: str,
    *,
    force: bool,
) -> Steps[Json]:
    """Split an endpoint's requests between versions, in percent."""
    body = {
        "arms": [str(arm) for arm in arms],
        "split": [float(part) for part in split],
        "metric": metric,
        "force": force,
        "by": whoever(),
    }
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, "experiment"), body)))
    return answer


def report(endpoint: str, kind: str) -> Steps[Json]:
    """Return what the newest shadow or experiment has shown so far."""
    answer: Json = json_of((yield admin_call("GET", _path(endpoint, kind))))
    return answer


def stop(endpoint: str, kind: str) -> Steps[Json]:
    """End the shadow or experiment that goes on."""
    body = {"by": whoever()}
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, f"{kind}/stop"), body)))
    return answer


def _path(endpoint: str, what: str) -> str:
    return f"/endpoints/{check_name(endpoint, 'endpoint')}/{what}"
