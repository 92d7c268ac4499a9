"""The request and the answer, free of any wire protocol."""

from typing import Any

import msgspec

from salver.core.tensor import Tensor
from salver.core.timing import Timing

Parameters = dict[str, Any]


class InferenceRequest(msgspec.Struct, eq=False):
    """What a caller asks of an endpoint.

    ``version`` is None for "whatever the router picks"; ``outputs`` is None for all of them.
    """

    endpoint: str
    inputs: list[Tensor]
    version: str | None = None
    outputs: tuple[str, ...] | None = None
    parameters: Parameters | None = None


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
