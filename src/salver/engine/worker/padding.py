"""Rows of unlike lengths as one batch, and its outputs cut back to each row's own length."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from salver.core.datatypes import DTYPES
from salver.core.errors import ModelFailed
from salver.core.sequences import Sequences
from salver.core.signature import Signature
from salver.core.tensor import AnyArray
from salver.engine.worker.batch import assemble
from salver.engine.worker.heads import heads_of
from salver.engine.worker.job import Job, rows_of
from salver.runtimes.base import Batch


class Padder:
    """Fills and cuts the batches of one version. Has no state that changes; any thread may call."""

    def __init__(self, sequences: Sequences, signature: Signature) -> None:
        self._inputs = {item.name: item for item in sequences.inputs}
        self._outputs = {item.name: item.axis for item in sequences.outputs}
        self._mask = sequences.mask
        datatypes = {spec.name: spec.datatype for spec in signature.inputs}
        self._mask_dtype = DTYPES[datatypes[self._mask]] if self._mask else None
        self._measure = next(item for item in sequences.inputs if item.name != self._mask)

    def assemble(self, jobs: list[Job]) -> Batch:
        """Return the inputs of all jobs, the short ones filled up.

        Raises ``InvalidTensor`` when bytes and headers of a job do not fit together.
        """
        if len(jobs) == 1 or len({job.length for job in jobs}) == 1:
            return self.completed(assemble(jobs))
        return self.joined([self.completed(assemble([job])) for job in jobs])

    def completed(self, batch: Batch) -> Batch:
        """Add the mask to rows of one length, if it was left out."""
        if self._mask_dtype is not None and self._mask not in batch:
            measured = batch.get(self._measure.name)
            if measured is not None and self._measure.axis < measured.ndim:
                shape = (measured.shape[0], measured.shape[self._measure.axis])
                batch[self._mask] = np.ones(shape, self._mask_dtype)
        return batch

    def joined(self, parts: list[Batch]) -> Batch:
        """Return batches of unlike lengths as one."""
        batch: Batch = {}
        for name in parts[0]:
            arrays = [part[name] for part in parts]
            item = self._inputs.get(name)
            if item is None:
                batch[name] = np.concatenate(arrays)
            else:
                batch[name] = _filled(arrays, item.axis, item.pad)
        return batch

    def cut(self, outputs: Batch, jobs: list[Job]) -> Iterator[tuple[Batch, list[Job]]]:
        """Yield neighbours of one length with their share of the outputs, without the filling.

        Raises ``ModelFailed`` when an output is not as long as the inputs were.
        """
        total, start = rows_of(jobs), 0
        heads_of(outputs, total)
        longest = max(job.length for job in jobs)
        for length, neighbours in groupby(jobs, lambda job: job.length):
            group = list(neighbours)
            stop = start + rows_of(group)
            shares = {
                name: self._share(name, array[start:stop], longest, length)
                for name, array in outputs.items()
            }
            yield shares, group
            start = stop

    def _share(self, name: str, array: AnyArray, longest: int, length: int) -> AnyArray:
        axis = self._outputs.get(name)
        if axis is None:
            return array
        if axis >= array.ndim or array.shape[axis] != longest:
            raise ModelFailed(
                f"output {name!r} has shape {list(array.shape)} for rows of {longest} tokens; push "
                "the model again without --sequence"
            )
        return array[(slice(None),) * axis + (slice(length),)] if length < longest else array


def _filled(arrays: list[AnyArray], axis: int, pad: float) -> AnyArray:
    longest = max(array.shape[axis] for array in arrays)
    first, rows = arrays[0], sum(array.shape[0] for array in arrays)
    shape = [rows, *first.shape[1:]]
    shape[axis] = longest
    filled: AnyArray = np.full(shape, pad, first.dtype)
    start = 0
    for array in arrays:
        stop = start + array.shape[0]
        place = [slice(None)] * array.ndim
        place[0], place[axis] = slice(start, stop), slice(array.shape[axis])
        filled[tuple(place)] = array
        start = stop
    return filled
