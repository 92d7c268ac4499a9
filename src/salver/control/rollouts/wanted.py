"""Which reported metrics somebody reads, so that nothing else takes their place."""

from collections.abc import Sequence

import msgspec

from salver.control.feedback import Limit, Wanted
from salver.control.rollouts.journal import rollout_of
from salver.control.rollouts.judging import judge_policy
from salver.core.errors import SalverError
from salver.core.feedback import ANY_VALUE, SHARES
from salver.core.sides import Side
from salver.registry.rollouts import RolloutStore
from salver.registry.sides import SideStore
from salver.rollout.policy import MetricSpec

_RATE, _MEAN = "feedback_rate", "feedback_mean"


class WantedMetrics:
    """Tells what rollouts that go on, and experiments, compare. Called on the database's thread."""

    def __init__(self, rollouts: RolloutStore, sides: SideStore) -> None:
        self._rollouts = rollouts
        self._sides = sides

    def __call__(self) -> dict[str, Wanted]:
        """Return the wanted metrics by endpoint.

        Of ended experiments too, whose reports can still be asked for. None of a rollout whose
        policy cannot be read, which pauses elsewhere.
        """
        found: dict[str, dict[str, tuple[Limit, ...]]] = {}
        for side in self._sides.experiments():
            _add(found.setdefault(side.endpoint, {}), side.metric, _of_experiment(side))
        for record in self._rollouts.active():
            try:
                metrics = judge_policy(rollout_of(record).policy).metrics
            except (SalverError, msgspec.MsgspecError):
                continue
            of_endpoint = found.setdefault(record.endpoint, {})
            for name in {s.feedback_name for s in metrics if s.kind in (_RATE, _MEAN)}:
                _add(of_endpoint, name, _of_rollout(metrics, name))
        return {
            endpoint: Wanted(
                frozenset(metrics), {name: limits for name, limits in metrics.items() if limits}
            )
            for endpoint, metrics in found.items()
        }


def _add(found: dict[str, tuple[Limit, ...]], name: str, limits: tuple[Limit, ...]) -> None:
    found[name] = (*found.get(name, ()), *limits)


def _of_experiment(side: Side) -> tuple[Limit, ...]:
    """Return what outcomes of its answers have to be: others were never its own."""
    if side.bounds == ANY_VALUE:
        return ()
    return (Limit(side.bounds, side.first_epoch, side.last_epoch),)


def _of_rollout(metrics: Sequence[MetricSpec], name: str) -> tuple[Limit, ...]:
    """Return what all metrics allow that compare a name; shares only where none is a mean."""
    means = [spec for spec in metrics if spec.kind == _MEAN and spec.feedback_name == name]
    if not means:
        return (Limit(SHARES),)
    return tuple(Limit(spec.bounds) for spec in means if spec.bounds != ANY_VALUE)
