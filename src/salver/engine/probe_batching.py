"""Finds out whether a pushed model answers a row in a batch as it answers the row alone."""

from typing import Protocol

import numpy as np

from salver.artifact.golden import first_difference
from salver.core.errors import SalverError
from salver.core.signature import VARIABLE, Signature
from salver.core.steps import Steps
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch

_BATCH_ROWS = 8
_DEFAULT_BATCH_SIZE = 64
_RTOL, _ATOL = 1e-4, 1e-5
_MAX_DOUBLED_BYTES = 65_536


class Runner(Protocol):
    """What answers batches."""

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch."""
        ...


def batching(
    runtime: Runner,
    signature: Signature,
    batch: Batch,
    steps: Steps | None,
    most_rows: int | None = None,
) -> tuple[int, str]:
    """Compare a batch with its single rows; returns the batch size allowed, and why it is 1.

    ``most_rows`` is how many the model takes at once, if that is known. Where text is padded to the
    longest of a batch, the rows get texts of different lengths.
    """
    if not all(spec.shape and spec.shape[0] == VARIABLE for spec in signature.inputs):
        return 1, "the first dimension of the inputs is fixed"
    if most_rows == 1:
        return 1, "the model takes one row at a time"
    most = _DEFAULT_BATCH_SIZE if most_rows is None else min(most_rows, _DEFAULT_BATCH_SIZE)
    tried = min(_BATCH_ROWS, most)
    several = {name: _repeated(array, tried) for name, array in batch.items()}
    cause = _difference(runtime, several)
    padded = _padded(steps) if steps is not None else set()
    if not cause and padded:
        # A column that is no input was made by a step before, of any of the inputs.
        all_known = padded <= several.keys()
        varied = {
            name: array if all_known and name not in padded else _varied(array)
            for name, array in several.items()
        }
        cause = _difference(runtime, varied)
        if cause:
            cause = f"with texts of different lengths, {cause}"
    return (1, cause) if cause else (most, "")


def _difference(runtime: Runner, several: Batch) -> str:
    rows = next(iter(several.values())).shape[0]
    try:
        together = runtime.run(several, None)
        for name, value in together.items():
            if np.asarray(value).ndim == 0 or np.asarray(value).shape[0] != rows:
                return f"output {name!r} does not have one row for each row given"
        for index in range(rows):
            alone = runtime.run({k: v[index : index + 1] for k, v in several.items()}, None)
            for name, value in alone.items():
                share = np.asarray(together[name])[index : index + 1]
                difference = first_difference(np.asarray(value), share, _RTOL, _ATOL)
                if difference:
                    return f"a row answered in a batch is not the row alone: {name} {difference}"
    except SalverError as error:
        return f"a batch of {rows} rows failed: {error.message}"
    return ""


def _repeated(array: AnyArray, count: int) -> AnyArray:
    rows = max(1, array.shape[0])
    return np.concatenate([array] * (count // rows + 1))[:count]


def _padded(steps: Steps) -> set[str]:
    """Return the columns whose text is padded to the longest of a batch."""
    return {
        step["column"]
        for step in steps.before
        if step["step"] == "tokenize" and step.get("pad", "longest") == "longest"
    }


def _varied(array: AnyArray) -> AnyArray:
    """Return text with, one row after the other, its own, a shorter and a longer length."""
    if array.dtype.kind != "O":
        return array
    width = array.size // len(array)
    varied = np.empty(array.size, dtype=object)
    varied[:] = [_resized(text, at // width % 3) for at, text in enumerate(array.ravel().tolist())]
    return varied.reshape(array.shape)


def _resized(text: bytes | str, how: int) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    first = (data.split() or [b"a"])[0]
    if how == 0 and data.strip():
        return data
    if how == 1:
        return first
    return b" ".join([data if len(data) < _MAX_DOUBLED_BYTES else first] * 2 + [first])
