"""Triton Python backend: sentences to vectors, one run of ONNX Runtime for each batch it is given.

A batch is padded to its longest text. Copied into the model repository as `model.py`.
"""

import os
import sys
from typing import Any

sys.path[:0] = [os.environ["BENCH_SITE_PACKAGES"]]
sys.path.append(os.environ["BENCH_TEXT_PACKAGES"])
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import onnxruntime
import tokenizers
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """MiniLM behind Triton's batcher, or without it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load model and tokenizer."""
        folder = os.environ["BENCH_TEXT_MODEL"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.tokenizer.enable_truncation(512)
        self.tokenizer.enable_padding()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests as one batch and cut the answer."""
        texts, counts = [], []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel()
            texts += [row.decode() for row in rows]
            counts.append(len(rows))
        encoded = self.tokenizer.encode_batch(texts)
        (vectors,) = self.session.run(
            None,
            {
                "input_ids": np.array([one.ids for one in encoded], np.int64),
                "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
                "token_type_ids": np.array([one.type_ids for one in encoded], np.int64),
            },
        )
        responses, start = [], 0
        for count in counts:
            share = pb_utils.Tensor("sentence_embedding", vectors[start : start + count])
            responses.append(pb_utils.InferenceResponse([share]))
            start += count
        return responses
