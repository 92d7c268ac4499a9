"""The request and the answer, free of any wire protocol."""

from collections.abc import Callable
from typing import Any

import msgspec

from salver.core.datatypes import BYTES
from salver.core.signature import Signature
from salver.core.tensor import Tensor
from salver.core.timing import Timing

Parameters = dict[str, Any]

_MAX_FORMS = 1024
_MAX_TENSORS = 32
_MAX_NAMES_CHARS = 1024
_MAX_DIMENSIONS = 256


class RequestForm(msgspec.Struct, frozen=True, eq=False):
    """Everything about a request's tensors but their values; compared by identity.

    ``inputs`` are names, datatypes and shapes. ``size_bytes`` is what all inputs take together,
    None where elements say themselves how long they are. ``rows`` is their common first dimension,
    1 where they have none.
    """

    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[str, ...] | None
    size_bytes: int | None
    rows: int = 1


_forms: dict[tuple[object, ...], RequestForm] = {}


LayOut = Callable[[list[Tensor], Signature], list[Tensor]]


class InferenceRequest(msgspec.Struct, eq=False):
    """What a caller asks of an endpoint.

    ``version`` is None for "whatever the router picks"; ``outputs`` is None for all of them.
    ``lay_out`` makes the model's inputs of those that were sent, once it is known which variant
    answers; it raises a ``CallerError`` when they do not go together.
    """

    endpoint: str
    inputs: list[Tensor]
    version: str | None = None
    outputs: tuple[str, ...] | None = None
    parameters: Parameters | None = None
    form: RequestForm | None = None
    lay_out: LayOut | None = None


def form_of(request: InferenceRequest) -> RequestForm:
    """Return the request's form: the same object for all that differ in their values only.

    Unusually long ones are not remembered, and are different for each request.
    """
    form = request.form
    if form is None:
        inputs = tuple([(t.name, t.datatype, t.shape) for t in request.inputs])
        key = (inputs, request.outputs)
        form = _forms.get(key)
        if form is None:
            sized = all(tensor.datatype != BYTES for tensor in request.inputs)
            size = sum(tensor.size_bytes for tensor in request.inputs) if sized else None
            form = RequestForm(inputs, request.outputs, size, _rows(request.inputs))
            if _is_usual(request):
                if len(_forms) >= _MAX_FORMS:
                    _forms.clear()
                _forms[key] = form
        request.form = form
    return form


def _rows(inputs: list[Tensor]) -> int:
    sizes = {tensor.shape[0] if tensor.shape else 1 for tensor in inputs}
    return max(1, sizes.pop()) if len(sizes) == 1 else 1


def _is_usual(request: InferenceRequest) -> bool:
    """Tell whether a form is short enough to be kept, so that callers cannot fill the memory."""
    names = [tensor.name for tensor in request.inputs] + [*(request.outputs or ())]
    dimensions = sum([len(tensor.shape) for tensor in request.inputs])
    return (
        len(names) <= _MAX_TENSORS
        and sum(map(len, names)) <= _MAX_NAMES_CHARS
        and dimensions <= _MAX_DIMENSIONS
    )


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
        return InferenceResponse(self._cut(index, index + 1), self.timings[index])

    def part(self, start: int, stop: int) -> "JointResponse":
        """Return the answers to the requests from ``start`` to before ``stop``."""
        if stop - start == len(self.timings):
            return self
        return JointResponse(self._cut(start, stop), self.rows, self.timings[start:stop])

    def _cut(self, start: int, stop: int) -> list[Tensor]:
        count, rows = len(self.timings), self.rows * (stop - start)
        cut: list[Tensor] = []
        for tensor in self.outputs:
            size = tensor.size_bytes // count
            part = tensor.buffer[start * size : stop * size]
            cut.append(Tensor(tensor.name, tensor.datatype, (rows, *tensor.shape[1:]), part))
        return cut
