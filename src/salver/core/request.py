"""The request and the answer, free of any wire protocol."""

from typing import Any

from salver.core.tensor import Tensor

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


class Timing:
    """Where a request spent its time inside a worker, and in what company.

    All durations are nanoseconds; ``batch_size`` counts requests' rows run together;
    ``cold`` tells that the model had to be loaded for this request.
    """

    __slots__ = ("batch_size", "cold", "postprocess_ns", "preprocess_ns", "queue_ns", "run_ns")

    def __init__(  # noqa: PLR0913 - the six parts of the measurement
        self,
        queue_ns: int = 0,
        preprocess_ns: int = 0,
        run_ns: int = 0,
        postprocess_ns: int = 0,
        batch_size: int = 1,
        cold: bool = False,  # noqa: FBT001, FBT002 - one more field of the same record
    ) -> None:
        self.queue_ns = queue_ns
        self.preprocess_ns = preprocess_ns
        self.run_ns = run_ns
        self.postprocess_ns = postprocess_ns
        self.batch_size = batch_size
        self.cold = cold


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
