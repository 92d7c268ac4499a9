"""Triton Python backend: gives its only input back. Copied into the repository as `model.py`."""

import os
import sys
from typing import Any

sys.path.insert(0, os.environ["BENCH_SITE_PACKAGES"])

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The identity, whatever its datatype."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with its own tensor."""
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(r, "x").as_numpy())]
            )
            for r in requests
        ]
