"""The refusals of a worker, worded once."""

from typing import Any

from salver.core.errors import DeadlineExceeded, Draining, NotReady, Overloaded, SalverError
from salver.engine.worker.loading import Loading

RETRY_AFTER_S = 1.0


def refusal(loading: Loading[Any], queued: int) -> SalverError | None:
    """Return why a version takes no request now, or None when it does."""
    load, state = loading.load, loading.state
    if loading.refusing is not None:
        return loading.refusing
    if state == "failed":
        return loading.error
    if state == "draining":
        return Draining(f"{load.variant} is being unloaded here", retry_after_s=RETRY_AFTER_S)
    if state == "loading" and not load.lazy:
        return NotReady(f"{load.variant} is still loading", retry_after_s=RETRY_AFTER_S)
    if queued >= load.policy.max_queue:
        return Overloaded(
            f"the queue of {load.variant} is full ({queued} requests); try again later or add "
            "replicas",
            retry_after_s=RETRY_AFTER_S,
        )
    return None


def late() -> DeadlineExceeded:
    """Return the error of a request that waited too long to be run."""
    return DeadlineExceeded(
        "the deadline passed while the request waited; allow more time or add replicas"
    )
