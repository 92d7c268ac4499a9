"""Many jobs as one batch and one batch's answer as many."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from salver.core.datatypes import BYTES, DTYPES, ITEM_SIZES, datatype_of
from salver.core.errors import InvalidTensor, ModelFailed
from salver.core.tensor import AnyArray, Tensor, decode_bytes, encode_bytes
from salver.engine.worker.job import ALONE, Job
from salver.runtimes.base import Batch
from salver.wire.framing import Buffer, size_of
from salver.wire.messages import TensorHeader

_MAX_JOINT_BYTES = 1024 * 1024

Encoded = tuple[tuple[TensorHeader, ...], list[Buffer]]


class Answer(NamedTuple):
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
    headers = jobs[0].infer.inputs
    if len(headers) == 1:
        header = headers[0]
        parts: list[Buffer] = [job.payload for job in jobs]
        return {header.name: _stack(header, jobs, parts, 0)}
    slices = [_slice(job) for job in jobs]
    return {
        header.name: _stack(header, jobs, [parts[index] for parts in slices], index)
        for index, header in enumerate(headers)
    }


def disassemble(outputs: Batch, jobs: list[Job]) -> list[Answer]:
    """Return a batch's outputs, cut where jobs cannot be answered together.

    Jobs beside each other are answered together if the same gateway waits for them and can take
    that, and if they have the same number of rows of a fixed size.

    Raises ``ModelFailed`` when an output does not have one row for each row that went in.
    """
    total = sum([job.all_rows for job in jobs])
    if len(jobs) == 1 and jobs[0].count == 1:
        if jobs[0].key is not ALONE:
            for name, array in outputs.items():
                _check_rows(name, array, total)
        return [Answer(jobs, *whole(outputs))]
    columns = [_Column(name, array, total) for name, array in outputs.items()]
    answers: list[Answer] = []
    start = 0
    for group in _groups(jobs, _joint_rows(columns)):
        rows, count = group[0].rows, sum([job.count for job in group])
        stop = start + rows * count
        parts: list[Buffer] = [column.part(start, stop) for column in columns]
        headers = [
            column.header(rows, size_of((part,)) // count)
            for column, part in zip(columns, parts, strict=True)
        ]
        answers.append(Answer(group, tuple(headers), parts))
        start = stop
    return answers


def _joint_rows(columns: list["_Column"]) -> int:
    """Return how many rows may be answered in one message; 0 for outputs of no fixed size."""
    if not columns or any(column.datatype == BYTES for column in columns):
        return 0
    return _MAX_JOINT_BYTES // max(1, sum([column.row_bytes for column in columns]))


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


class _Column:
    """One output of a batch, ready to be cut into rows."""

    __slots__ = ("_array", "_headers", "_name", "_raw", "_row_shape", "datatype", "row_bytes")

    def __init__(self, name: str, array: AnyArray, total: int) -> None:
        _check_rows(name, array, total)
        self._name = name
        self.datatype = datatype_of(array.dtype)
        self._row_shape = array.shape[1:]
        self._headers: dict[int, TensorHeader] = {}
        self._array = array
        if self.datatype == BYTES:
            self._raw = b""
            self.row_bytes = 0
        else:
            self._raw = np.ascontiguousarray(array, DTYPES[self.datatype]).tobytes()
            self.row_bytes = len(self._raw) // total if total else 0

    def part(self, start: int, stop: int) -> bytes:
        """Return the bytes of some rows."""
        if self.datatype == BYTES:
            return encode_bytes(self._array[start:stop].ravel().tolist())
        return self._raw[start * self.row_bytes : stop * self.row_bytes]

    def header(self, rows: int, size_bytes: int) -> TensorHeader:
        """Return the header of so many rows; equal ones are made once."""
        header = self._headers.get(rows)
        if header is None or self.datatype == BYTES:
            shape = (rows, *self._row_shape)
            header = TensorHeader(self._name, self.datatype, shape, size_bytes)
            self._headers[rows] = header
        return header


def _check_rows(name: str, array: AnyArray, total: int) -> None:
    if array.ndim == 0 or array.shape[0] != total:
        raise ModelFailed(
            f"output {name!r} has shape {list(array.shape)} for a batch of {total} rows; "
            "deploy with --max-batch-size 1"
        )


def _slice(job: Job) -> list[Buffer]:
    """Return a job's inputs one by one; those of several requests are brought together."""
    view, position, parts = memoryview(job.payload), 0, list[Buffer]()
    size = view.nbytes // job.count
    for header in job.infer.inputs:
        stop = position + header.size_bytes
        if job.count == 1:
            parts.append(view[position:stop])
        else:
            table = np.frombuffer(view, np.uint8).reshape(job.count, size)
            parts.append(table[:, position:stop].tobytes())
        position = stop
    if position != size:
        raise InvalidTensor(f"{size} bytes came for inputs of {position} bytes")
    return parts


def _stack(header: TensorHeader, jobs: list[Job], parts: list[Buffer], index: int) -> AnyArray:
    if header.datatype == BYTES:
        arrays = []
        for job, part in zip(jobs, parts, strict=True):
            shape = job.infer.inputs[index].shape
            count = int(np.prod(shape, dtype=object)) if shape else 1
            arrays.append(decode_bytes(part, count).reshape(shape))
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    dtype = DTYPES.get(header.datatype)
    if dtype is None:
        raise InvalidTensor(f"input {header.name!r} has unknown datatype {header.datatype!r}")
    try:
        if len(jobs) == 1 and jobs[0].count == 1:
            array: AnyArray = np.frombuffer(parts[0], dtype)
            return array.reshape(header.shape)
        joined: AnyArray = np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), dtype)
        rows = sum([job.all_rows for job in jobs])
        _check_parts(header, jobs, parts, index)
        return joined.reshape((rows, *header.shape[1:]))
    except ValueError as error:
        raise InvalidTensor(
            f"input {header.name!r}: the bytes do not hold {header.datatype} of shape "
            f"{list(header.shape)}"
        ) from error


def _check_parts(header: TensorHeader, jobs: list[Job], parts: list[Buffer], index: int) -> None:
    """Make sure that no caller's surplus bytes shift into the next caller's rows."""
    row_bytes = ITEM_SIZES[header.datatype]
    for dimension in header.shape[1:]:
        row_bytes *= dimension
    for job, part in zip(jobs, parts, strict=True):
        expected = job.all_rows * row_bytes
        actual = part.nbytes if isinstance(part, memoryview) else len(part)
        if actual != expected or job.infer.inputs[index].size_bytes * job.count != actual:
            raise InvalidTensor(
                f"input {header.name!r}: {actual} bytes came for a shape of {expected} bytes"
            )
