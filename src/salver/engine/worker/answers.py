"""Sends what a batch answered to those who asked."""

from salver.core.errors import ModelFailed, WireError
from salver.core.timing import Timing
from salver.engine.worker.batch import Answer
from salver.engine.worker.job import ids_of
from salver.wire.messages import Chunk, ChunkMany


def send_answer(answer: Answer, started_ns: int, timing: Timing) -> None:
    """Send one message for all jobs of an answer when their gateway's link is flushed.

    ``timing`` lacks their time in the queue.
    """
    jobs = answer.jobs
    first = jobs[0]
    reply, ids = first.reply, ids_of(jobs)
    queued: tuple[int, ...] = (started_ns - first.arrival_ns,)
    if len(jobs) > 1 or not reply.is_terse:
        queued = tuple([started_ns - job.arrival_ns for job in jobs for _ in job.ids])
    try:
        if len(ids) == 1:
            own = Timing(queued[0], 0, timing.run_ns, 0, timing.batch_size, timing.cold)
            reply.queue(Chunk(ids[0], 0, True, answer.headers, own), answer.buffers)
        else:
            reply.queue(ChunkMany(ids, answer.headers, queued, timing), answer.buffers)
    except WireError as error:
        for job in jobs:
            reply.fail(job, ModelFailed(f"the answer cannot be sent: {error.message}"))
    for job in jobs:
        reply.forget(job)
