"""The request and the answer, free of any wire protocol."""

from typing import Any

import msgspec

from salver.core.datatypes import BYTES
from salver.core.tensor import Tensor
from salver.core.timing import Timing

Parameters = dict[str, Any]

_MAX_FORMS = 4096


class RequestForm(msgspec.Struct, frozen=True, eq=False):
    """Everything about a request's tensors but their values; compared by identity.

    ``inputs`` are names, datatypes and shapes. ``size_bytes`` is what all inputs take together,
    None where elements say themselves how long they are.
    """

    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[str, ...] | None
    size_bytes: int | None


_forms: dict[tuple[object, ...], RequestForm] = {}


class InferenceRequest(msgspec.Struct, eq=False):
    """What a caller asks of an endpoint.

    ``version`` is None for "whatever the router picks"; ``outputs`` is None for all of them.
    """

    endpoint: str
    inputs: list[Tensor]
    version: str | None = None
    outputs: tuple[str, ...] | None = None
    parameters: Parameters | None = None
    form: RequestForm | None = None


def form_of(request: InferenceRequest) -> RequestForm:
    """Return the request's form: the same object for all that differ in their values only."""
    form = request.form
    if form is None:
        inputs = tuple([(t.name, t.datatype, t.shape) for t in request.inputs])
        key = (inputs, request.outputs)
        form = _forms.get(key)
        if form is None:
            sized = all(tensor.datatype != BYTES for tensor in request.inputs)
            size = sum(tensor.size_bytes for tensor in request.inputs) if sized else None
            if len(_forms) >= _MAX_FORMS:
                _forms.clear()
            form = _forms[key] = RequestForm(inputs, request.outputs, size)
        request.form = form
    return form


class InferenceResponse(msgspec.Struct, eq=False):
    """One answer, or one chunk of a streamed answer."""

    outputs: list[Tensor]
    timing: Timing | None = None
    parameters: Parameters | None = None


class JointResponse(msgspec.Struct, eq=False):
    """The answers to several requests that ran together, not yet cut apart.

    ``outputs`` are stacked along the first axis: ``rows`` rows for each request, in the order of
    ``timings``. Elements have a fixed size; ``BYTES`` are never answered jointly.
    """

    outputs: list[Tensor]
    rows: int
    timings: list[Timing]

    def alone(self, index: int) -> InferenceResponse:
        """Return the answer to one of the requests, as if it had come by itself."""
        count = len(self.timings)
        cut: list[Tensor] = []
        for tensor in self.outputs:
            size = tensor.size_bytes // count
            part = tensor.buffer[index * size : (index + 1) * size]
            cut.append(Tensor(tensor.name, tensor.datatype, (self.rows, *tensor.shape[1:]), part))
        return InferenceResponse(cut, self.timings[index])
