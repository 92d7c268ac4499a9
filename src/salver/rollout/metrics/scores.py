"""The distribution of scores: the share above each edge, and the stability index."""

import msgspec
import numpy as np

from salver.core.errors import InvalidSettings
from salver.rollout.metrics.base import Column, Question, events, stability_index
from salver.rollout.metrics.family import family
from salver.rollout.report import MetricReport
from salver.rollout.tally import Floats, Layout


def score(question: Question) -> MetricReport:
    """Compare the share of scores above every edge; the change is that of the one moved most."""
    edges = question.observed[0].block.canary.score_edges if question.observed else ()
    if not edges:
        raise InvalidSettings("the gateways count no scores; the policy must name score edges")
    members = {
        f"above {edge:.15g}": events(question, _scored, _above(place))
        for place, edge in enumerate(edges)
    }
    found = family(question, members)
    canary, primary = (
        np.sum(
            [_histogram(each.block.canary, getattr(each, arm).rows) for each in question.observed],
            axis=0,
        )
        for arm in ("canary", "primary")
    )
    return msgspec.structs.replace(
        found, extra={**found.extra, "psi": stability_index(canary, primary)}
    )


def _histogram(layout: Layout, rows: Floats) -> Floats:
    return np.asarray(rows[:, layout.first_score : layout.first_feedback].sum(axis=0))


def _scored(layout: Layout, rows: Floats) -> Floats:
    return np.asarray(rows[:, layout.first_score : layout.first_feedback].sum(axis=1))


def _above(place: int) -> Column:
    return lambda layout, rows: np.asarray(
        rows[:, layout.first_score + place + 1 : layout.first_feedback].sum(axis=1)
    )
