"""How long the parts of a request took inside a worker."""

import msgspec


class Timing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a request spent its time inside a worker, and in what company.

    All durations are nanoseconds; ``batch_size`` counts the rows that ran together; ``cold``
    tells that the model had to be loaded for this request.
    """

    queue_ns: int = 0
    preprocess_ns: int = 0
    run_ns: int = 0
    postprocess_ns: int = 0
    batch_size: int = 1
    cold: bool = False
