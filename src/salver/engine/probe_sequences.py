"""Finds out whether rows of unlike lengths may share a batch of a pushed model."""

import math
from typing import NamedTuple

import msgspec
import numpy as np

from salver.artifact.golden import DEFAULT_ATOL, DEFAULT_RTOL, first_difference
from salver.core.datatypes import DTYPES
from salver.core.errors import InvalidArtifact, SalverError
from salver.core.sequences import CutOutput, PaddedInput, Sequences
from salver.core.signature import VARIABLE, Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.engine.worker.padding import Padder
from salver.runtimes.base import Batch, BatchRuntime

_LONG_ENOUGH = 4


class Tried(NamedTuple):
    """The declaration with the outputs that must be cut, or None and why."""

    sequences: Sequences | None
    note: str


class Completing:
    """Runs a runtime, with the mask where it was left out."""

    def __init__(self, runtime: BatchRuntime, padder: Padder) -> None:
        self._runtime = runtime
        self._padder = padder

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch of rows of one length."""
        return self._runtime.run(self._padder.completed({**batch}), outputs)


def checked(declared: Sequences, signature: Signature) -> Sequences:
    """Return a declaration with the mask among its inputs.

    Raises ``InvalidArtifact`` where it does not fit the model.
    """
    inputs = list(declared.inputs)
    if declared.mask and all(item.name != declared.mask for item in inputs):
        inputs.append(PaddedInput(declared.mask))
    specs = {spec.name: spec for spec in signature.inputs}
    for item in inputs:
        _check_input(item, specs.get(item.name), ", ".join(specs))
    if len({item.name for item in inputs}) != len(inputs):
        raise InvalidArtifact("an input of --sequence is named twice")
    if all(item.name == declared.mask for item in inputs):
        raise InvalidArtifact("--sequence names no input besides the mask")
    if declared.mask:
        (mask,) = (item for item in inputs if item.name == declared.mask)
        if mask.pad != 0 or mask.axis != 1 or len(specs[mask.name].shape) != 2:  # noqa: PLR2004
            raise InvalidArtifact(
                f"the mask {mask.name!r} must be of shape [-1, -1] and is filled with 0"
            )
    return Sequences(tuple(inputs), declared.mask)


def _check_input(item: PaddedInput, spec: TensorSpec | None, known: str) -> None:
    if spec is None:
        raise InvalidArtifact(f"--sequence: the model has no input {item.name!r}; it has {known}")
    if spec.datatype not in DTYPES:
        raise InvalidArtifact(f"--sequence: {item.name!r} is {spec.datatype}, which has no filling")
    if not 0 < item.axis < len(spec.shape) or spec.shape[item.axis] != VARIABLE:
        raise InvalidArtifact(
            f"--sequence: axis {item.axis} of {item.name!r} {list(spec.shape)} is not one of any "
            "length (-1) after the first"
        )
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "f":
        return
    limits = (0, 1)
    if dtype.kind != "b":
        info = np.iinfo(dtype.name)
        limits = (int(info.min), int(info.max))
    whole = math.isfinite(item.pad) and item.pad == int(item.pad)
    if not whole or not limits[0] <= item.pad <= limits[1]:
        raise InvalidArtifact(f"--sequence: {item.pad:g} is not a value of {spec.datatype}")


def with_optional_mask(signature: Signature, mask: str) -> Signature:
    """Return the signature whose mask may be left out."""
    return msgspec.structs.replace(
        signature,
        inputs=tuple(
            msgspec.structs.replace(spec, optional=True) if spec.name == mask else spec
            for spec in signature.inputs
        ),
    )


def with_all_inputs(signature: Signature) -> Signature:
    """Return the signature whose inputs may none be left out."""
    inputs = [msgspec.structs.replace(spec, optional=False) for spec in signature.inputs]
    return msgspec.structs.replace(signature, inputs=tuple(inputs))


def tried(runtime: BatchRuntime, sequences: Sequences, signature: Signature, batch: Batch) -> Tried:
    """Compare a filled batch, cut back, with its rows alone."""
    padder = Padder(sequences, signature)
    first = {name: array[:1] for name, array in padder.completed({**batch}).items()}
    axes = {item.name: item.axis for item in sequences.inputs if item.name in first}
    lengths = {first[name].shape[axis] for name, axis in axes.items()}
    if len(lengths) != 1 or 0 in lengths:
        return Tried(None, "the example's sequences are not all of one length")
    rows = [_resized(first, axes, length) for length in _three(lengths.pop())]
    try:
        alone = [runtime.run(row, None) for row in rows]
        together = runtime.run(padder.joined(rows), None)
    except SalverError as error:
        return Tried(None, f"a batch of unlike lengths failed: {error.message}")
    name, axis = next(iter(axes.items()))
    return _compared(sequences, alone, together, [row[name].shape[axis] for row in rows])


def _three(length: int) -> tuple[int, int, int]:
    """Return three lengths, not over the example's where that is long enough to be cut."""
    if length >= _LONG_ENOUGH:
        return length // 2, length, length - 1
    return length, 2 * length + 1, length + 1


def _resized(row: Batch, axes: dict[str, int], length: int) -> Batch:
    return {
        name: np.take(array, np.arange(length) % array.shape[axes[name]], axes[name])
        if name in axes
        else array
        for name, array in row.items()
    }


def _compared(
    sequences: Sequences, alone: list[Batch], together: Batch, lengths: list[int]
) -> Tried:
    cuts: list[CutOutput] = []
    for name, value in together.items():
        array, singles = np.asarray(value), [np.asarray(outputs[name]) for outputs in alone]
        growing = _growing(singles, lengths)
        if len(growing) > 1:
            return Tried(None, f"output {name!r} grows with the length along {len(growing)} axes")
        if array.ndim == 0 or array.shape[0] != len(alone):
            return Tried(None, f"output {name!r} does not have one row for each row given")
        for index, (single, length) in enumerate(zip(singles, lengths, strict=True)):
            share = array[index : index + 1]
            for axis in growing:
                share = share[(slice(None),) * axis + (slice(length),)]
            difference = first_difference(single, share, DEFAULT_RTOL, DEFAULT_ATOL)
            if difference:
                return Tried(None, f"a filled row is not the row alone: {name} {difference}")
        cuts += [CutOutput(name, axis) for axis in growing]
    return Tried(Sequences(sequences.inputs, sequences.mask, tuple(cuts)), "")


def _growing(singles: list[AnyArray], lengths: list[int]) -> list[int]:
    """Return the axes that are as long as the row in each of some answers."""
    dimensions = min(array.ndim for array in singles)
    return [
        axis for axis in range(1, dimensions) if [array.shape[axis] for array in singles] == lengths
    ]
