"""LitServe: sentences to vectors; `python text.py PORT MAX_BATCH_SIZE BATCH_TIMEOUT_S`."""

import os
import sys
from typing import Any

sys.path.append(os.environ["BENCH_TEXT_PACKAGES"])
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import litserve
import numpy as np
import onnxruntime
import tokenizers


class Text(litserve.LitAPI):
    """MiniLM; with a batch size over 1 LitServe collects requests into lists."""

    def setup(self, device: str) -> None:
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

    def decode_request(self, request: dict[str, Any]) -> str:
        """Return the text."""
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        """Leave the texts as they are."""
        return inputs

    def predict(self, texts: str | list[str]) -> Any:
        """Return one vector for each text."""
        alone = isinstance(texts, str)
        encoded = self.tokenizer.encode_batch([texts] if alone else texts)
        (vectors,) = self.session.run(
            None,
            {
                "input_ids": np.array([one.ids for one in encoded], np.int64),
                "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
                "token_type_ids": np.array([one.type_ids for one in encoded], np.int64),
            },
        )
        return vectors[0] if alone else vectors

    def unbatch(self, output: Any) -> Any:
        """Return the vectors one by one."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return the vector as JSON."""
        return {"sentence_embedding": output.tolist()}


if __name__ == "__main__":
    port, size, timeout_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    api = Text(max_batch_size=size, batch_timeout=timeout_s)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
