"""Runs jobs as one batch, or each alone when the batch fails."""

from typing import Protocol

import msgspec

from salver.core.clock import Clock
from salver.core.errors import InvalidTensor, ModelFailed, SalverError, message_of
from salver.engine.worker.batch import Answer, assemble, disassemble
from salver.engine.worker.job import Job
from salver.engine.worker.limits import explained
from salver.engine.worker.padding import Padder
from salver.runtimes.base import Batch

_MAX_CAUSE = 500


class Runner(Protocol):
    """What answers batches: a runtime, or the rest of one."""

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch; see ``BatchRuntime.run``."""
        ...


class Failure(msgspec.Struct, frozen=True, eq=False):
    """A job that ended in an error."""

    job: Job
    error: SalverError


class Outcome(msgspec.Struct, frozen=True, eq=False):
    """What became of every job, in order, and how long the run took."""

    answers: list[Answer | Failure]
    started_ns: int
    run_ns: int


def execute(
    runtime: Runner, jobs: list[Job], clock: Clock, padder: Padder | None = None
) -> Outcome:
    """Run the jobs as one batch; if that fails, each alone, so that one hurts only itself.

    Without a ``padder`` all rows are of one length. May be called on any thread.
    """
    started_ns = clock.monotonic_ns()
    answers: list[Answer | Failure]
    try:
        answers = [*_run(runtime, jobs, padder)]
    except BaseException as error:  # a runtime may raise anything, exits and panics too
        if len(jobs) == 1 and jobs[0].count == 1:
            answers = [Failure(jobs[0], failure(error))]
        else:
            answers = [_run_alone(runtime, one, padder) for job in jobs for one in job.each()]
    return Outcome(answers, started_ns, clock.monotonic_ns() - started_ns)


def failure(error: BaseException) -> SalverError:
    """Return what a runtime raised as a domain error."""
    if isinstance(error, SalverError):
        return explained(error)
    told = f"the model failed: {type(error).__name__}: {message_of(error)}"
    failed = ModelFailed(told[:_MAX_CAUSE])
    failed.__cause__ = error
    return explained(failed)


def _run(runtime: Runner, jobs: list[Job], padder: Padder | None) -> list[Answer]:
    wanted = jobs[0].form.outputs
    batch = assemble(jobs) if padder is None else padder.assemble(jobs)
    outputs = runtime.run(batch, wanted)
    if wanted is not None and len(outputs) < len(wanted):
        # Fewer may be all of them: nothing forbids to ask for one twice.
        missing = [name for name in wanted if name not in outputs]
        if missing:
            raise ModelFailed(f"the model did not give {', '.join(missing)}")
    try:
        if padder is None or len(jobs) == 1:
            return disassemble(outputs, jobs)
        shares = padder.cut(outputs, jobs)
        return [answer for share, group in shares for answer in disassemble(share, group)]
    except InvalidTensor as error:
        # The caller's tensors were fine; it is the model that answered with the wrong ones.
        raise ModelFailed(f"the model's answer cannot be sent: {error.message}") from error


def _run_alone(runtime: Runner, job: Job, padder: Padder | None) -> Answer | Failure:
    try:
        return _run(runtime, [job], padder)[0]
    except BaseException as error:  # a runtime may raise anything, exits and panics too
        return Failure(job, failure(error))
