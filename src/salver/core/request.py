"""The request and the answer, free of any wire protocol."""

from typing import Any

from salver.core.tensor import Tensor
from salver.core.timing import Timing

Parameters = dict[str, Any]


class InferenceRequest:
    """What a caller asks of an endpoint.

    ``version`` is None for "whatever the router picks"; ``outputs`` is None for all of them.
    """

    __slots__ = ("endpoint", "inputs", "outputs", "parameters", "version")

    def __init__(
        self,
        endpoint: str,
        inputs: list[Tensor],
        version: str | None = None,
        outputs: tuple[str, ...] | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.inputs = inputs
        self.version = version
        self.outputs = outputs
        self.parameters = parameters


class InferenceResponse:
    """One answer, or one chunk of a streamed answer."""

    __slots__ = ("outputs", "parameters", "timing")

    def __init__(
        self,
        outputs: list[Tensor],
        timing: Timing | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self.outputs = outputs
        self.timing = timing
        self.parameters = parameters
