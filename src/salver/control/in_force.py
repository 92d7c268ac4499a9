"""What of the wishes for a version is in force, by what its workers report."""

from salver.control.desired import Desired, Observed
from salver.control.hosts import is_tried, ready_workers


def up_to_date_workers(item: Desired, observed: Observed) -> list[str]:
    """Return the workers that can answer for the wanted version, run as is wanted now."""
    version = item.version
    return [
        worker
        for worker in ready_workers(item, observed)
        if version is not None and is_tried(item, observed.workers[worker][version.id])
    ]


def providers(item: Desired, observed: Observed) -> set[str]:
    """Return what the wanted version computes with where it is loaded."""
    version = item.version
    if version is None:
        return set()
    states = [observed.workers[one][version.id] for one in ready_workers(item, observed)]
    return {state.provider for state in states if state.provider}
