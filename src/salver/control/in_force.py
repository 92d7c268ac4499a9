"""What of the wishes for a version is in force, by what its workers report."""

from salver.control.desired import Desired, Observed
from salver.control.hosts import is_tried, ready_workers
from salver.wire.messages import VariantState


def up_to_date_workers(item: Desired, observed: Observed) -> list[str]:
    """Return the workers that can answer for the wanted version, run as is wanted now.

    One that is asleep begins as is wanted.
    """
    return [
        worker
        for worker in ready_workers(item, observed)
        if (state := _state(item, observed, worker)) is None or is_tried(item, state)
    ]


def providers(item: Desired, observed: Observed) -> set[str]:
    """Return what the wanted version computes with where it is loaded."""
    states = [_state(item, observed, worker) for worker in ready_workers(item, observed)]
    return {state.provider for state in states if state is not None and state.provider}


def _state(item: Desired, observed: Observed, worker: str) -> VariantState | None:
    version = item.version
    return None if version is None else observed.workers.get(worker, {}).get(version.id)
