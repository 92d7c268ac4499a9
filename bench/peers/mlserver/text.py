"""MLServer runtime: sentences to vectors, one run of ONNX Runtime for each batch it is given."""

import os
import sys

sys.path.append(os.environ["BENCH_TEXT_PACKAGES"])
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import onnxruntime
import tokenizers
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Text(MLModel):
    """MiniLM; MLServer merges the requests of a batch before it calls this."""

    async def load(self) -> bool:
        """Load model and tokenizer."""
        folder = os.environ["BENCH_TEXT_MODEL"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        self._tokenizer.enable_truncation(512)
        self._tokenizer.enable_padding()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer all texts of this request, which may be several callers'."""
        encoded = self._tokenizer.encode_batch(StringCodec.decode_input(payload.inputs[0]))
        (vectors,) = self._session.run(
            None,
            {
                "input_ids": np.array([one.ids for one in encoded], np.int64),
                "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
                "token_type_ids": np.array([one.type_ids for one in encoded], np.int64),
            },
        )
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output("sentence_embedding", vectors)],
        )
