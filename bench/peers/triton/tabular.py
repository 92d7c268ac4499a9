"""Triton Python backend: ONNX Runtime with one intra-op thread, one run for each dynamic batch.

Copied into the model repository as `model.py`. The backend's interpreter is Debian's, so the
packages of the environment are put on its path here.
"""

import os
import sys
from typing import Any

sys.path.insert(0, os.environ["BENCH_SITE_PACKAGES"])

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The tabular model behind Triton's dynamic batcher."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["BENCH_TABULAR_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests as one batch and cut the answer."""
        rows = [pb_utils.get_input_tensor_by_name(r, "features").as_numpy() for r in requests]
        batch = rows[0] if len(rows) == 1 else np.concatenate(rows)
        labels, probabilities = self.session.run(None, {"features": batch})
        responses, start = [], 0
        for row in rows:
            stop = start + len(row)
            responses.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor("label", labels[start:stop, None]),
                        pb_utils.Tensor("probabilities", probabilities[start:stop]),
                    ]
                )
            )
            start = stop
        return responses
