"""Train a hundred different models of some MB each, and write them with a request for each.

Runs in the `models` environment: `python bench/models/many.py FOLDER`. All are trained on
scikit-learn's handwritten digits, on rows and with a seed of their own: three of four are
perceptrons with two hidden layers, the fourth extremely randomized trees. Writes `NAME.onnx`, and
last `many.json`: by name a row to ask with and ONNX Runtime's own answer to it.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

COUNT = 100
OPSET = 17
SCALE = 16.0
WIDTHS = (640, 768, 896, 1024, 1152, 1280)
TREES = (20, 30, 40)
PASSES = 2


def classifier(number: int) -> Any:
    """Return an untrained classifier that no other number gives."""
    if number % 4 == 3:
        return ExtraTreesClassifier(TREES[number % len(TREES)], random_state=number)
    width = WIDTHS[number % len(WIDTHS)]
    return MLPClassifier((width, width), max_iter=PASSES, random_state=number)


def trained(number: int, features: np.ndarray, labels: np.ndarray) -> bytes:
    """Train on two thirds of the rows and export."""
    rows = np.random.default_rng(number).permutation(len(features))[: len(features) * 2 // 3]
    model = classifier(number).fit(features[rows], labels[rows])
    exported = to_onnx(
        model,
        initial_types=[("pixels", FloatTensorType([None, features.shape[1]]))],
        options={id(model): {"zipmap": False}},
        target_opset=OPSET,
    )
    content: bytes = exported.SerializeToString()
    return content


def main(folder: Path) -> None:
    """Write everything."""
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    features, labels = load_digits(return_X_y=True)
    features = (features / SCALE).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = {}
    for number in range(COUNT):
        name = f"digits-{number:03d}"
        path = folder / f"{name}.onnx"
        path.write_bytes(trained(number, features, labels))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        row = features[number : number + 1]
        label, scores = session.run(None, {"pixels": row})
        found[name] = {
            "row": row[0].tolist(),
            "label": int(label[0]),
            "scores": scores[0].tolist(),
            "size_bytes": path.stat().st_size,
        }
    (folder / "many.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
