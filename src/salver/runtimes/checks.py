"""Checks that every runtime makes of a batch before it computes."""

from pathlib import Path

import numpy as np

from salver.core.datatypes import DTYPES, datatype_of
from salver.core.errors import (
    InvalidTensor,
    LoadFailed,
    MissingInput,
    UnknownInput,
    UnknownOutput,
)
from salver.core.signature import TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch


def check_batch(batch: Batch, specs: tuple[TensorSpec, ...]) -> None:
    """Raise a ``CallerError`` unless names, datatypes and shapes are the declared ones."""
    if len(batch) == len(specs):
        for declared in specs:
            array = batch.get(declared.name)
            if (
                array is None
                or array.dtype != DTYPES.get(declared.datatype)
                or not declared.accepts_shape(array.shape)
            ):
                break
        else:
            return
    known = {spec.name: spec for spec in specs}
    for name, array in batch.items():
        spec = known.get(name)
        if spec is None:
            raise UnknownInput(f"unknown input {name!r}; the model takes {', '.join(known)}")
        datatype = datatype_of(array.dtype)
        if datatype != spec.datatype:
            raise InvalidTensor(f"input {name!r} is {spec.datatype}, {datatype} was given")
        if not spec.accepts_shape(array.shape):
            raise InvalidTensor(
                f"input {name!r} has shape {list(spec.shape)} (-1 = any), "
                f"{list(array.shape)} was given"
            )
    for spec in specs:
        if spec.name not in batch and not spec.optional:
            raise MissingInput(f"input {spec.name!r} is missing")


def read_only(batch: Batch) -> Batch:
    """Return the same values in arrays that code cannot write into by mistake."""
    views = {name: array.view() for name, array in batch.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def as_text(name: str, array: AnyArray) -> AnyArray:
    """Return ``BYTES`` elements as the text that libraries take; raises ``InvalidTensor``."""
    flat = array.ravel()
    text = np.empty(flat.size, dtype=object)
    try:
        text[:] = [item.decode() if isinstance(item, bytes) else item for item in flat]
    except UnicodeDecodeError as error:
        raise InvalidTensor(
            f"input {name!r} holds bytes that are not UTF-8; this model takes text"
        ) from error
    return text.reshape(array.shape)


def pick(outputs: Batch, wanted: tuple[str, ...] | None) -> Batch:
    """Return the outputs asked for, in the order asked; raises ``UnknownOutput``."""
    if wanted is None:
        return outputs
    for name in wanted:
        if name not in outputs:
            raise UnknownOutput(f"unknown output {name!r}; the model gives {', '.join(outputs)}")
    return {name: outputs[name] for name in wanted}


def only_file(folder: Path, suffixes: tuple[str, ...]) -> Path:
    """Return the one file of a folder with such an ending; raises ``LoadFailed``."""
    found = [path for path in sorted(folder.iterdir()) if path.name.lower().endswith(suffixes)]
    if len(found) != 1:
        raise LoadFailed(
            f"{len(found)} files end in {' or '.join(suffixes)}; an artifact has exactly one"
        )
    return found[0]
