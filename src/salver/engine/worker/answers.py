"""Sends what a batch answered to those who asked."""

import msgspec

from salver.core.errors import ModelFailed, WireError
from salver.core.timing import Timing
from salver.engine.worker.batch import Answer
from salver.wire.messages import Chunk, ChunkMany


def send_answer(answer: Answer, started_ns: int, timing: Timing) -> None:
    """Send one message for all jobs of an answer when their gateway's link is flushed.

    ``timing`` lacks their time in the queue.
    """
    jobs = answer.jobs
    reply, ids = jobs[0].reply, jobs[0].ids
    queued = [started_ns - jobs[0].arrival_ns] * len(ids)
    for job in jobs[1:]:
        ids += job.ids
        queued += [started_ns - job.arrival_ns] * job.count
    try:
        if len(ids) == 1:
            own = msgspec.structs.replace(timing, queue_ns=queued[0])
            reply.queue(Chunk(ids[0], 0, True, answer.headers, own), answer.buffers)
        else:
            reply.queue(ChunkMany(ids, answer.headers, tuple(queued), timing), answer.buffers)
    except WireError as error:
        for job in jobs:
            reply.fail(job, ModelFailed(f"the answer cannot be sent: {error.message}"))
    for job in jobs:
        reply.forget(job)
