"""The counters of one version behind an endpoint, and how Triton's clients read them."""

from typing import Any

from salver.core.timing import Timing

_MAX_SIZES = 128
_SHARES = 10**9


class _Batches:
    """What ran in batches of one size; durations are weighted with the rows they count for."""

    __slots__ = ("infer", "input", "output", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.input = 0
        self.infer = 0
        self.output = 0

    def document(self, size: int) -> dict[str, Any]:
        count = -(-self.rows // size)
        return {
            "batch_size": size,
            "compute_input": {"count": count, "ns": self.input // size},
            "compute_infer": {"count": count, "ns": self.infer // size},
            "compute_output": {"count": count, "ns": self.output // size},
        }


class Counters:
    """Sums over the requests of one version; they only ever grow.

    A batch may hold requests of several gateways, and each says how many rows it had. So a request
    counts for its share of the batch's rows, and the batches are the sum of the shares, rounded up.
    ``batch_stats`` tells at most 128 sizes apart, which bounds what callers can make it hold.
    """

    __slots__ = (
        "_executions",
        "_failed",
        "_failed_ns",
        "_hits",
        "_hits_ns",
        "_infer_ns",
        "_input_ns",
        "_last_ns",
        "_misses",
        "_misses_ns",
        "_output_ns",
        "_queue_ns",
        "_ran",
        "_rows",
        "_sizes",
        "_succeeded",
        "_succeeded_ns",
    )

    def __init__(self) -> None:
        self._succeeded = self._succeeded_ns = 0
        self._failed = self._failed_ns = 0
        self._hits = self._hits_ns = self._misses = self._misses_ns = self._ran = 0
        self._queue_ns = self._input_ns = self._infer_ns = self._output_ns = 0
        self._rows = self._executions = self._last_ns = 0
        self._sizes: dict[int, _Batches] = {}

    def seen(self, unix_ns: int) -> None:
        """Take note of when a request ended."""
        self._last_ns = max(self._last_ns, unix_ns)

    def fail(self, total_ns: int) -> None:
        """Count a request that failed."""
        self._failed += 1
        self._failed_ns += total_ns

    def hit(self, rows: int, total_ns: int, memory_ns: int) -> None:
        """Count a request of so many rows that was answered, and for which nothing ran."""
        self._succeeded += 1
        self._succeeded_ns += total_ns
        self._rows += rows
        self._hits += 1
        self._hits_ns += memory_ns

    def miss(self, memory_ns: int) -> None:
        """Count that the model had to be asked for one of the answers that succeeded."""
        self._misses += 1
        self._misses_ns += memory_ns

    def succeed(self, count: int, rows: int, total_ns: int, queue_ns: int, timing: Timing) -> None:
        """Count requests of one batch, of so many rows each, that ran and were answered.

        ``total_ns`` is of each, ``queue_ns`` of all together; the rest of ``timing`` is common.
        """
        input_ns, infer_ns = timing.preprocess_ns, timing.run_ns
        output_ns = timing.postprocess_ns
        self._succeeded += count
        self._succeeded_ns += count * total_ns
        self._ran += count
        self._queue_ns += queue_ns
        self._input_ns += count * input_ns
        self._infer_ns += count * infer_ns
        self._output_ns += count * output_ns
        all_rows, size = count * rows, max(rows, timing.batch_size)
        self._rows += all_rows
        self._executions += all_rows * _SHARES // size
        batches = self._sizes.get(size)
        if batches is None:
            if len(self._sizes) >= _MAX_SIZES:
                return
            batches = self._sizes[size] = _Batches()
        batches.rows += all_rows
        batches.input += all_rows * input_ns
        batches.infer += all_rows * infer_ns
        batches.output += all_rows * output_ns

    def document(self, name: str, version: str) -> dict[str, Any]:
        """Return an entry of ``model_stats``."""
        count, ran = self._succeeded, self._ran
        return {
            "name": name,
            "version": version,
            "last_inference": self._last_ns // 10**6,
            "inference_count": self._rows,
            "execution_count": -(-self._executions // _SHARES),
            "inference_stats": {
                "success": {"count": count, "ns": self._succeeded_ns},
                "fail": {"count": self._failed, "ns": self._failed_ns},
                "queue": {"count": count, "ns": self._queue_ns},
                "compute_input": {"count": ran, "ns": self._input_ns},
                "compute_infer": {"count": ran, "ns": self._infer_ns},
                "compute_output": {"count": ran, "ns": self._output_ns},
                "cache_hit": {"count": self._hits, "ns": self._hits_ns},
                "cache_miss": {"count": self._misses, "ns": self._misses_ns},
            },
            "response_stats": {},
            "batch_stats": [self._sizes[size].document(size) for size in sorted(self._sizes)],
            "memory_usage": [],
        }
