"""What ONNX Runtime gives by itself: all texts at hand at once, or one image after the other.

Runs in the `models` environment: `python bench/offline.py FOLDER SITE_PACKAGES WORK SECONDS`, where
FOLDER is what `models/real.py` wrote. WORK is `texts`, which prints one JSON object with texts/s,
tokenizing included: `alone` one by one in their order, `sorted` all of them by length in groups of
the best of a few sizes; or `image`, which prints images/s of one thread.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

SAMPLE = 400
SIZES = (2, 4, 8)
PARTS = (
    ("input_ids", "ids"),
    ("attention_mask", "attention_mask"),
    ("token_type_ids", "type_ids"),
)


def session(path: Path) -> onnxruntime.InferenceSession:
    """Load a model with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def inputs_of(encoded: list[Any]) -> dict[str, np.ndarray]:
    """Return texts as one batch, padded to the longest; the filling is 0 in all three inputs."""
    longest = max(len(one.ids) for one in encoded)
    batch = {}
    for name, part in PARTS:
        table = np.zeros((len(encoded), longest), np.int64)
        for row, one in zip(table, encoded, strict=True):
            row[: len(one.ids)] = getattr(one, part)
        batch[name] = table
    return batch


def in_order(model: onnxruntime.InferenceSession, tokenizer: Any, texts: list[str]) -> float:
    """Answer one text after the other; returns seconds."""
    begin = time.perf_counter()
    for text in texts:
        model.run(None, inputs_of([tokenizer.encode(text)]))
    return time.perf_counter() - begin


def by_length(
    model: onnxruntime.InferenceSession, tokenizer: Any, texts: list[str], size: int
) -> float:
    """Tokenize all texts, sort them, answer them in groups; returns seconds."""
    begin = time.perf_counter()
    encoded = sorted(tokenizer.encode_batch(texts), key=lambda one: len(one.ids))
    for start in range(0, len(encoded), size):
        model.run(None, inputs_of(encoded[start : start + size]))
    return time.perf_counter() - begin


def texts_per_s(folder: Path, seconds: float) -> dict[str, Any]:
    """Measure each way in turn until the time is over; the best of each counts."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - it lies in the packages given

    tokenizer = Tokenizer.from_file(str(folder / "minilm" / "tokenizer.json"))
    tokenizer.no_padding()
    texts = json.loads((folder / "texts.json").read_text())
    texts = texts[:: max(1, len(texts) // SAMPLE)][:SAMPLE]
    model = session(folder / "minilm" / "model.onnx")
    alone: list[float] = []
    grouped: dict[int, list[float]] = {size: [] for size in SIZES}
    end = time.monotonic() + seconds
    while not alone or time.monotonic() < end:
        alone.append(len(texts) / in_order(model, tokenizer, texts))
        for size, found in grouped.items():
            found.append(len(texts) / by_length(model, tokenizer, texts, size))
    best = {size: max(found) for size, found in grouped.items()}
    size = max(best, key=lambda key: best[key])
    return {"alone": max(alone), "sorted": best[size], "size": size}


def images_per_s(folder: Path, seconds: float) -> dict[str, Any]:
    """Answer the image again and again."""
    model = session(folder / "nsfw.onnx")
    (entry,) = model.get_inputs()
    image = np.frombuffer((folder / "image.bin").read_bytes(), np.float32)
    image = image.reshape(1, 224, 224, 3)
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < 3 or time.monotonic() < end:
        begin = time.perf_counter()
        model.run(None, {entry.name: image})
        times.append(time.perf_counter() - begin)
    return {
        "images_per_s": len(times) / sum(times),
        "median_ms": sorted(times)[len(times) // 2] * 1e3,
    }


def main(folder: Path, packages: str, work: str, seconds: float) -> None:
    """Measure and print."""
    sys.path.append(packages)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    measure = {"texts": texts_per_s, "image": images_per_s}[work]
    print(json.dumps(measure(folder, seconds)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
