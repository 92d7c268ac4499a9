"""The share of each predicted class."""

from collections.abc import Sequence

import msgspec
import numpy as np

from salver.core.errors import InvalidSettings
from salver.rollout.betting import Sample
from salver.rollout.metrics.base import Column, Question, compared, events, stability_index
from salver.rollout.metrics.family import family
from salver.rollout.report import MetricReport
from salver.rollout.tally import Floats, Layout

_OTHER = "(other)"


def names_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of counted classes, and last that of all others, which is none of them."""
    other = _OTHER
    while other in labels:
        other = f"({other})"
    return (*labels, other)


def class_share(question: Question) -> MetricReport:
    """Compare one class's share of predictions, or those of all classes together."""
    labels = question.observed[0].block.canary.labels if question.observed else ()
    if question.spec.label:
        if question.spec.label not in labels:
            raise InvalidSettings(f"the gateways do not count the class {question.spec.label!r}")
        return compared(question, _sample(question, labels.index(question.spec.label)))
    if not labels:
        raise InvalidSettings("the gateways count no classes; the policy must name them")
    # A class that nobody predicts would only thin the evidence out.
    members = {name: _sample(question, place) for place, name in enumerate(names_of(labels))}
    used = {
        name: m
        for name, m in members.items()
        if any(b.canary_sum.any() or b.primary_sum.any() for b in m.blocks)
    }
    found = family(question, used or members)
    canary, primary = (
        np.array([sum(float(getattr(b, arm).sum()) for b in m.blocks) for m in members.values()])
        for arm in ("canary_sum", "primary_sum")
    )
    return msgspec.structs.replace(
        found, extra={**found.extra, "psi": stability_index(canary, primary)}
    )


def _sample(question: Question, place: int) -> Sample:
    return events(question, _predictions, _of_class(place))


def _predictions(layout: Layout, rows: Floats) -> Floats:
    return np.asarray(rows[:, layout.first_label : layout.first_score].sum(axis=1))


def _of_class(place: int) -> Column:
    return lambda layout, rows: rows[:, layout.first_label + place]
