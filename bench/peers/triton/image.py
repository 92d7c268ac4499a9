"""Triton Python backend: the image classifier. Copied into the model repository as `model.py`."""

import os
import sys
from typing import Any

sys.path.insert(0, os.environ["BENCH_SITE_PACKAGES"])

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The classifier with one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["BENCH_IMAGE_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests as one batch and cut the answer."""
        images = [pb_utils.get_input_tensor_by_name(r, self.input).as_numpy() for r in requests]
        batch = images[0] if len(images) == 1 else np.concatenate(images)
        (scores,) = self.session.run([self.output], {self.input: batch})
        responses, start = [], 0
        for image in images:
            share = pb_utils.Tensor(self.output, scores[start : start + len(image)])
            responses.append(pb_utils.InferenceResponse([share]))
            start += len(image)
        return responses
