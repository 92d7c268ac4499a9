"""What a pushed model is tried with."""

import numpy as np

from salver.artifact.golden import parse_golden
from salver.core.datatypes import BYTES, DTYPES
from salver.core.errors import InvalidExample, SalverError
from salver.core.rows import infer_inputs, parse_document, rows_to_tensors
from salver.core.signature import VARIABLE, Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.engine.probe import ProbeRequest

_SYNTHETIC_SIZE = 1


def inputs_of(
    known: Signature | None, request: ProbeRequest, warnings: list[str]
) -> tuple[Signature, list[Tensor]]:
    """Return the signature as far as it is known, and inputs to try the model with.

    ``known`` is what the model says of itself. Raises ``InvalidExample`` when there is nothing to
    tell the inputs, or when the example does not fit.
    """
    if request.example:
        rows = parse_document(request.example, request.example_name)
        if known is None:
            specs, tensors = infer_inputs(rows)
            return Signature(specs, ()), tensors
        try:
            tensors = rows_to_tensors(rows, known)
            known.check_inputs(tensors)
        except SalverError as error:
            raise InvalidExample(f"the example does not fit the model: {error.message}") from error
        return known, tensors
    if request.golden:
        tensors = parse_golden(request.golden)[0].inputs
        if known is None:
            specs = tuple(TensorSpec(t.name, t.datatype, (VARIABLE, *t.shape[1:])) for t in tensors)
            return Signature(specs, ()), tensors
        return known, tensors
    if known is None:
        raise InvalidExample(
            "the file does not tell the model's inputs; push it with --example rows.json"
        )
    warnings.append("no example was given; the model was tried with zeros")
    return known, [_zeros(spec) for spec in known.inputs if not spec.optional]


def outer_signature(request: ProbeRequest) -> Signature | None:
    """Return what callers send where steps come before the model, None where they do not.

    Raises ``InvalidExample`` when neither the steps nor an example tell it.
    """
    steps = request.steps
    if steps is None or not steps.before:
        return None
    declared = Signature(steps.inputs, ()) if steps.inputs else None
    return inputs_of(declared, request, [])[0]


def _zeros(spec: TensorSpec) -> Tensor:
    shape = tuple(_SYNTHETIC_SIZE if size < 0 else size for size in spec.shape)
    if spec.datatype == BYTES:
        empty = np.empty(shape, dtype=object)
        empty[...] = b""
        return Tensor.from_array(spec.name, empty)
    return Tensor.from_array(spec.name, np.zeros(shape, DTYPES[spec.datatype]))
