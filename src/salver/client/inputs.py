"""Whatever a caller holds, as tensors: arrays, frames, rows, text files."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidTensor, MissingInput
from salver.core.rows import rows_to_tensors
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import AnyArray, Tensor, converted


@runtime_checkable
class Frame(Protocol):
    """As much of a pandas or polars frame as is needed here."""

    @property
    def columns(self) -> Any:
        """Names of the columns."""
        ...

    def __getitem__(self, key: str) -> Any:
        """One column."""
        ...

    def to_numpy(self) -> AnyArray:
        """All values."""
        ...


Rows = Sequence[Sequence[Any]] | Sequence[Mapping[str, Any]]
Inputs = AnyArray | Mapping[str, AnyArray] | Sequence[Tensor] | Frame | Rows


def needs_signature(inputs: Inputs) -> bool:
    """Tell whether laying the inputs out takes knowledge of the model."""
    if isinstance(inputs, Mapping):
        return not all(isinstance(value, np.ndarray) for value in inputs.values())
    return not _are_tensors(inputs)


def to_tensors(inputs: Inputs, signature: Signature | None) -> list[Tensor]:
    """Lay inputs out as tensors.

    A single array is the model's only input. Raises ``InvalidTensor`` or ``MissingInput`` when
    they do not fit the signature.
    """
    if _are_tensors(inputs):
        return list(inputs)  # type: ignore[arg-type]
    if isinstance(inputs, Mapping) and signature is None:
        return [Tensor.from_array(name, np.asarray(value)) for name, value in inputs.items()]
    if signature is None:
        raise InvalidTensor("these inputs need the model's signature to be laid out")
    if isinstance(inputs, np.ndarray):
        return [_cast(_only_input(signature), inputs)]
    if isinstance(inputs, Mapping):
        specs = {spec.name: spec for spec in signature.inputs}
        return [
            _cast(specs[name], np.asarray(value)) if name in specs
            else Tensor.from_array(name, np.asarray(value))
            for name, value in inputs.items()
        ]  # fmt: skip
    if isinstance(inputs, Frame):
        return _from_frame(inputs, signature)
    return rows_to_tensors(list(inputs), signature)


def _are_tensors(inputs: Inputs) -> bool:
    return isinstance(inputs, list | tuple) and bool(inputs) and isinstance(inputs[0], Tensor)


def _only_input(signature: Signature) -> TensorSpec:
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise InvalidTensor(
            f"the model has {len(signature.inputs)} inputs ({names}); give a dictionary of arrays"
        )
    return signature.inputs[0]


def _cast(spec: TensorSpec, array: AnyArray) -> Tensor:
    if spec.datatype == BYTES:
        return Tensor.from_array(spec.name, array.astype(object))
    return Tensor.from_array(spec.name, converted(spec.name, array, spec.datatype))


def _from_frame(frame: Frame, signature: Signature) -> list[Tensor]:
    present = [str(name) for name in frame.columns]
    tensors: list[Tensor] = []
    for spec in signature.inputs:
        wanted = [column.name for column in spec.columns] or [spec.name]
        missing = [name for name in wanted if name not in present]
        if missing and spec.columns and len(signature.inputs) == 1 and len(missing) == len(wanted):
            # Unnamed features: the frame's own order stands for the model's.
            return [_cast(spec, np.asarray(frame.to_numpy()))]
        if missing:
            raise MissingInput(f"the frame lacks the columns {', '.join(missing[:10])}")
        columns = [np.asarray(frame[name]) for name in wanted]
        stacked = columns[0] if not spec.columns else np.stack(columns, axis=1)
        tensors.append(_cast(spec, stacked.reshape(_shape(spec, stacked))))
    return tensors


def _shape(spec: TensorSpec, array: AnyArray) -> tuple[int, ...]:
    if len(spec.shape) == array.ndim + 1:
        return (*array.shape, 1)
    return array.shape
