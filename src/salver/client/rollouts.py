"""Calls to the control API about rollouts, going back, and freezes."""

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salver.client.calls import Steps, admin_call, json_of
from salver.client.documents import read_list, read_mapping
from salver.core.names import check_name
from salver.core.rollouts import basis_points, steps_of

Json = dict[str, Any]
_ROLLBACK_TIMEOUT_S = 150.0
_READ = frozenset(("steps", "analysis", "webhooks"))

Webhooks = str | Path | Sequence[Mapping[str, Any]]
"""Webhooks, or a file that holds them."""


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """How a rollout goes; None is the server's own choice.

    ``steps`` are percents, as text (``"5,25,50,100"``) or numbers. ``auto`` promotes without
    asking. ``force`` passes the gates that can be passed. ``sample`` (blue-green) is in percent.
    ``analysis`` are further settings of the comparison, ``webhooks`` who is told besides those of
    the endpoint, or files that hold them.
    """

    steps: str | Sequence[float] | None = None
    strategy: str | None = None
    auto: bool | None = None
    min_requests: int | None = None
    step_s: float | None = None
    max_duration_s: float | None = None
    no_traffic_s: float | None = None
    prepare_s: float | None = None
    sample: float | None = None
    keep_previous_s: float | None = None
    analysis: str | Path | Mapping[str, Any] | None = None
    force: bool | None = None
    webhooks: Webhooks | None = None


def policy_of(options: RolloutOptions) -> Json:
    """Return the options that were chosen as the API takes them."""
    names = [name for name in RolloutOptions.__dataclass_fields__ if name not in _READ]
    body = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.steps is not None:
        given = options.steps
        points = steps_of(given) if isinstance(given, str) else map(basis_points, given)
        body["steps"] = [each / 100 for each in points]
    if options.analysis is not None:
        body["analysis"] = read_mapping(options.analysis)
    if options.webhooks is not None:
        body["webhooks"] = read_list(options.webhooks, "webhooks")
    return body


def start(endpoint: str, to: str | int, options: RolloutOptions) -> Steps[Json]:
    """Begin a rollout and return it."""
    body = {"to": str(to), "by": whoever(), **policy_of(options)}
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, "rollout"), body)))
    return answer


def status(endpoint: str) -> Steps[Json]:
    """Return an endpoint's newest rollout."""
    answer: Json = json_of((yield admin_call("GET", _path(endpoint, "rollout"))))
    return answer


def history(endpoint: str, limit: int) -> Steps[list[Json]]:
    """Return the newest events of an endpoint's rollouts, newest first."""
    path = _path(endpoint, f"rollout/history?limit={limit}")
    answer: list[Json] = json_of((yield admin_call("GET", path)))
    return answer


def approve(endpoint: str, version: str | int, comment: str) -> Steps[Json]:
    """Approve of the version that is rolled out, or of another."""
    body = {"by": whoever(), "comment": comment, "version": str(version)}
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, "rollout/approve"), body)))
    return answer


def say(endpoint: str, what: str, reason: str = "", **more: Any) -> Steps[Json]:
    """Carry out ``rollout/pause`` and the like, ``rollback``, ``freeze`` or ``unfreeze``."""
    body: Mapping[str, Any] = {"by": whoever(), "reason": reason, **more}
    timeout_s = _ROLLBACK_TIMEOUT_S if what == "rollback" else None
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, what), body, timeout_s)))
    return answer


def whoever() -> str:
    """Return who asks, for histories."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no entry and no variables
        return str(os.getuid())


def _path(endpoint: str, what: str) -> str:
    return f"/endpoints/{check_name(endpoint, 'endpoint')}/{what}"
