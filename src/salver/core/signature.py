"""What a model takes and gives: the signature shared by push, gateway and worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from salver.core.errors import InvalidTensor, MissingInput, UnknownInput, UnknownOutput

if TYPE_CHECKING:
    # The supervisor reads plans, and must stay without numpy.
    from salver.core.tensor import Tensor

VARIABLE = -1
OUT_OF_RANGE = "salver_out_of_range"
"""Parameter of an answer that names a declared value which the request did not keep."""


class Column(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One column of a tabular tensor, or the single value of a one-column input."""

    name: str
    sensitive: bool = False
    categories: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Name, datatype and shape (``-1`` = variable) of one input or output.

    ``columns`` names the last axis of a tabular tensor; ``optional`` inputs may be left out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[Column, ...] = ()
    optional: bool = False

    def accepts_shape(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a concrete shape fits the declared one."""
        declared = self.shape
        if len(shape) != len(declared):
            return False
        for want, got in zip(declared, shape, strict=True):  # noqa: SIM110 - half the time
            if want not in (got, VARIABLE):
                return False
        return True


class Signature(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Declared inputs and outputs, in the model's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check_inputs(self, tensors: list[Tensor]) -> None:
        """Raise a ``CallerError`` unless the tensors are the declared inputs.

        Raises ``UnknownInput``, ``MissingInput`` or ``InvalidTensor`` (datatype or shape).
        """
        specs = {spec.name: spec for spec in self.inputs}
        seen: set[str] = set()
        for tensor in tensors:
            spec = specs.get(tensor.name)
            if spec is None:
                raise UnknownInput(
                    f"unknown input {tensor.name!r}; the model takes {', '.join(specs)}"
                )
            if tensor.name in seen:
                raise InvalidTensor(f"input {tensor.name!r} is given twice")
            seen.add(tensor.name)
            _check_tensor(spec, tensor)
        for spec in self.inputs:
            if spec.name not in seen and not spec.optional:
                raise MissingInput(
                    f"input {spec.name!r} ({spec.datatype} {list(spec.shape)}) is missing"
                )

    def check_outputs(self, names: tuple[str, ...]) -> None:
        """Raise ``UnknownOutput`` unless every name is a declared output."""
        known = [spec.name for spec in self.outputs]
        for name in names:
            if name not in known:
                raise UnknownOutput(f"unknown output {name!r}; the model gives {', '.join(known)}")


def _check_tensor(spec: TensorSpec, tensor: Tensor) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidTensor(f"input {spec.name!r} is {spec.datatype}, {tensor.datatype} was sent")
    if not spec.accepts_shape(tensor.shape):
        raise InvalidTensor(
            f"input {spec.name!r} has shape {list(spec.shape)} (-1 = any), "
            f"{list(tensor.shape)} was sent"
        )
