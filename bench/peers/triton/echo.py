"""Triton Python backend: gives its inputs x… back as y…. Copied into the repository as `model.py`."""

import os
import sys
from typing import Any

sys.path.insert(0, os.environ["BENCH_SITE_PACKAGES"])

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The identity, whatever its datatype."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with its own tensors."""
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(x.name().replace("x", "y"), x.as_numpy()) for x in r.inputs()]
            )
            for r in requests
        ]
