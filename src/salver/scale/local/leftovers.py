"""Removes what a worker that is gone for good leaves in the run folder, however it ended."""

from pathlib import Path

from salver.wire import attempts, copies, ends, pulse


def remove(run: Path, worker: str) -> None:
    """Remove its notes, its socket, and its private copies of models; may take a while."""
    pulse.forget(run, worker)
    ends.forget(run, worker)
    attempts.forget(run, worker)
    (run / f"worker-{worker}.sock").unlink(missing_ok=True)
    copies.forget(run, worker)
