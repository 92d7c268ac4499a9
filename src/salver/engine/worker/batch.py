"""Many jobs as one batch and one batch's answer as many."""

from collections.abc import Iterator

import msgspec
import numpy as np

from salver.core.errors import InvalidTensor
from salver.core.tensor import AnyArray, Tensor, decode_bytes
from salver.engine.worker.form import ALONE, Column
from salver.engine.worker.heads import Heads, heads_of
from salver.engine.worker.job import Job, rows_of
from salver.runtimes.base import Batch
from salver.wire.framing import LARGE_BYTES, Buffer
from salver.wire.messages import TensorHeader

_MAX_JOINT_BYTES = 1024 * 1024

Encoded = tuple[tuple[TensorHeader, ...], list[Buffer]]


class Answer(msgspec.Struct, frozen=True, eq=False):
    """Outputs as they travel, for one job or for several that are answered by one message.

    ``headers`` describe each request's share; the buffers hold the shares of all, in order.
    """

    jobs: list[Job]
    headers: tuple[TensorHeader, ...]
    buffers: list[Buffer]


def assemble(jobs: list[Job]) -> Batch:
    """Return the inputs of all jobs, stacked along the first axis.

    Raises ``InvalidTensor`` when bytes and headers of a job do not fit together.
    """
    first, rows = jobs[0], 0
    form = first.form
    for job in jobs:
        count = len(job.ids)
        rows += job.rows * count
        # No caller's surplus bytes may shift into the next caller's rows.
        if job.form.problem or len(job.payload) != job.form.size_bytes * count:
            raise _misfit(job)
    if not form.is_fixed or len(form.columns) != 1:
        return _assemble_columns(jobs, rows)
    raw = first.payload if len(jobs) == 1 else b"".join([job.payload for job in jobs])
    column = form.columns[0]
    return {column.header.name: _array(column, raw, rows)}


def _misfit(job: Job) -> InvalidTensor:
    form, size = job.form, len(job.payload)
    expected = form.size_bytes * job.count
    return InvalidTensor(form.problem or f"{size} bytes came for inputs of {expected} bytes")


def _array(column: Column, raw: Buffer, rows: int) -> AnyArray:
    """Return bytes as an array of so many rows, or of the header's shape where it has no rows.

    Nobody can write into it: a batch that fails is read once more, request by request.
    """
    shape = (rows, *column.row_shape) if rows else column.header.shape
    array: AnyArray = np.ndarray(shape, column.dtype, raw)
    if array.flags.writeable and array.size:
        # Unlike the flag by itself, this cannot be undone through the array.
        array = np.frombuffer(memoryview(raw).toreadonly(), column.dtype).reshape(shape)
    return array


def _assemble_columns(jobs: list[Job], rows: int) -> Batch:
    """Do the same for several inputs, and for text."""
    slices = [_slice(job) for job in jobs]
    batch: Batch = {}
    for index, column in enumerate(jobs[0].form.columns):
        parts = [slices_of_job[index] for slices_of_job in slices]
        if column.dtype is None:
            batch[column.header.name] = _texts(jobs, parts, index)
        else:
            raw = parts[0] if len(parts) == 1 else b"".join(parts)
            batch[column.header.name] = _array(column, raw, rows)
    return batch


def _slice(job: Job) -> list[Buffer]:
    """Return a job's inputs one by one; those of several requests are brought together."""
    view, columns, count = memoryview(job.payload), job.form.columns, job.count
    if count == 1:
        return [view[column.start : column.stop] for column in columns]
    table = np.frombuffer(view, np.uint8).reshape(count, job.form.size_bytes)
    return [table[:, column.start : column.stop].tobytes() for column in columns]


def _texts(jobs: list[Job], parts: list[Buffer], index: int) -> AnyArray:
    arrays = []
    for job, part in zip(jobs, parts, strict=True):
        shape = job.form.inputs[index].shape
        count = int(np.prod(shape, dtype=object)) if shape else 1
        arrays.append(decode_bytes(part, count).reshape(shape))
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def disassemble(outputs: Batch, jobs: list[Job]) -> list[Answer]:
    """Return a batch's outputs, cut where jobs cannot be answered together.

    Jobs beside each other are answered together if the same gateway waits for them and can take
    that, and if they have the same number of rows of a fixed size.

    Raises ``ModelFailed`` when an output does not have one row for each row that went in.
    """
    first = jobs[0]
    if first.key is ALONE:
        return [Answer(jobs, *whole(outputs))]
    rows = first.rows
    total = rows_of(jobs)
    heads = heads_of(outputs, total)
    if total == rows and (heads.is_text or heads.row_bytes * total > LARGE_BYTES):
        return [Answer(jobs, *whole(outputs))]
    joinable = bool(outputs) and not heads.is_text
    most_rows = _MAX_JOINT_BYTES // max(1, heads.row_bytes) if joinable else 0
    if total == rows or (total <= most_rows and _are_alike(jobs)):
        return [Answer(jobs, heads.headers(rows), heads.raw(outputs))]
    return _cut(outputs, jobs, heads, most_rows)


def _are_alike(jobs: list[Job]) -> bool:
    """Tell whether one gateway waits for all jobs, takes joint answers, and all are as long."""
    reply, rows = jobs[0].reply, jobs[0].rows
    if len(jobs) == 1 or not reply.joins:
        return reply.joins
    return all(job.reply is reply and job.rows == rows for job in jobs)


def _cut(outputs: Batch, jobs: list[Job], heads: Heads, most_rows: int) -> list[Answer]:
    """Return an answer for each group of jobs that may be answered together."""
    raws = [] if heads.is_text else heads.raw(outputs)
    total, start = rows_of(jobs), 0
    answers: list[Answer] = []
    for group in _groups(jobs, most_rows):
        rows = group[0].rows
        stop = start + rows * sum([job.count for job in group])
        if heads.is_text:
            own = {name: array[start:stop] for name, array in outputs.items()}
            answers.append(Answer(group, *whole(own)))
        else:
            parts = [raw[len(raw) * start // total : len(raw) * stop // total] for raw in raws]
            answers.append(Answer(group, heads.headers(rows), parts))
        start = stop
    return answers


def _groups(jobs: list[Job], max_rows: int) -> Iterator[list[Job]]:
    """Yield jobs that are answered together, those of several requests cut where they must be."""
    group: list[Job] = []
    rows = 0
    for job in jobs:
        for part in _answerable(job, max_rows):
            if group:
                first = group[0]
                fits = part.reply is first.reply and part.rows == first.rows and first.reply.joins
                if fits and rows + part.all_rows <= max_rows:
                    group.append(part)
                    rows += part.all_rows
                    continue
                yield group
            group, rows = [part], part.all_rows
    yield group


def _answerable(job: Job, max_rows: int) -> list[Job]:
    """Return a job in parts that may each be answered by one message."""
    count = job.count
    if count == 1 or (job.reply.joins and job.all_rows <= max_rows):
        return [job]
    step = max(1, max_rows // job.rows) if job.reply.joins else 1
    return [job.part(start, min(start + step, count)) for start in range(0, count, step)]


def whole(outputs: Batch) -> Encoded:
    """Return all outputs as one answer."""
    headers: list[TensorHeader] = []
    buffers: list[Buffer] = []
    for name, array in outputs.items():
        tensor = Tensor.from_array(name, np.asarray(array))
        headers.append(TensorHeader(name, tensor.datatype, tensor.shape, tensor.size_bytes))
        buffers.append(tensor.buffer)
    return tuple(headers), buffers
