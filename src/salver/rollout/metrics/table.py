"""Which function belongs to which kind of metric; loaded when first needed."""

import difflib
from importlib import import_module

from salver.core.errors import InvalidSettings
from salver.rollout.metrics.base import Metric

METRICS: dict[str, str] = {
    "error_rate": "salver.rollout.metrics.error_rate:error_rate",
    "latency": "salver.rollout.metrics.latency:latency",
    "class_share": "salver.rollout.metrics.classes:class_share",
    "score": "salver.rollout.metrics.scores:score",
    "feedback_rate": "salver.rollout.metrics.feedback:feedback_rate",
    "feedback_mean": "salver.rollout.metrics.feedback:feedback_mean",
}
"""A kind of metric and its function, ``"module:function"``; a plug-in adds its own line."""


def metric(kind: str) -> Metric:
    """Return the function of a kind; raises ``InvalidSettings`` naming the nearest known one."""
    place = METRICS.get(kind)
    if place is None:
        near = difflib.get_close_matches(kind, METRICS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(METRICS)}"
        raise InvalidSettings(f"there is no metric of kind {kind!r}; {hint}")
    module, _, name = place.partition(":")
    function: Metric = getattr(import_module(module), name)
    return function
