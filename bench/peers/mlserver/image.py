"""MLServer runtime: the image classifier; an image comes as base64, its most compact form here."""

import base64
import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Image(MLModel):
    """The classifier with one thread."""

    async def load(self) -> bool:
        """Load the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["BENCH_IMAGE_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one image."""
        (text,) = payload.inputs[0].data
        image = np.frombuffer(base64.b64decode(text), np.float32).reshape(1, 224, 224, 3)
        (scores,) = self._session.run([self._output], {self._input: image})
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(self._output, scores)]
        )
