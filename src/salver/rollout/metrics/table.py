"""Which function belongs to which kind of metric; loaded when first needed."""

import difflib
from collections.abc import Mapping
from importlib import import_module

from salver.core.errors import InvalidSettings
from salver.rollout.metrics.base import Metric

METRICS: dict[str, str] = {
    "error_rate": "salver.rollout.metrics.error_rate:error_rate",
    "refusal_rate": "salver.rollout.metrics.refusal_rate:refusal_rate",
    "latency": "salver.rollout.metrics.latency:latency",
    "class_share": "salver.rollout.metrics.classes:class_share",
    "score": "salver.rollout.metrics.scores:score",
    "feedback_rate": "salver.rollout.metrics.feedback:feedback_rate",
    "feedback_mean": "salver.rollout.metrics.feedback:feedback_mean",
}
"""Salver's own kinds of metrics and their functions, ``"module:function"``."""

_plugins: dict[str, Metric] = {}


def register(plugins: Mapping[str, Metric]) -> None:
    """Know these kinds besides Salver's own from now on, and no others."""
    _plugins.clear()
    _plugins.update(plugins)


def is_plugin(kind: str) -> bool:
    """Tell whether a kind's function is not Salver's own."""
    return kind in _plugins


def metric(kind: str) -> Metric:
    """Return the function of a kind; raises ``InvalidSettings`` naming the nearest known one."""
    if kind in _plugins:
        return _plugins[kind]
    place = METRICS.get(kind)
    if place is None:
        known = [*METRICS, *_plugins]
        near = difflib.get_close_matches(kind[:80], known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise InvalidSettings(f"there is no metric of kind {kind[:80]!r}; {hint}")
    module, _, name = place.partition(":")
    function: Metric = getattr(import_module(module), name)
    return function
