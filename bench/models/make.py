"""Make the models, the request bodies and the right answers.

Runs in the `models` environment: `python bench/models/make.py FOLDER`. Writes

- `tabular.onnx`: gradient-boosted trees, 30 features, scikit-learn's breast-cancer data
- `identity.onnx`: FP32 `[-1, 3, 224, 224]` in, the same out
- `cases.json`: OIP bodies and ONNX Runtime's own answers
- `tabular-example.json`: one row as plain rows
- `identity-example.json`: one small OIP body for the identity model
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier

CASES = 8
OPSET = 17
IR_VERSION = 9
"""Old enough for the oldest ONNX Runtime among the peers."""
IMAGE = (3, 224, 224)


def make_tabular(folder: Path) -> None:
    """Train, export, and record `CASES` requests with their answers."""
    data = load_breast_cancer()
    model = GradientBoostingClassifier(random_state=0).fit(data.data, data.target)
    exported = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, data.data.shape[1]]))],
        options={id(model): {"zipmap": False}},
        target_opset=OPSET,
    )
    path = folder / "tabular.onnx"
    path.write_bytes(exported.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = data.data[:: len(data.data) // CASES][:CASES].astype(np.float32)
    cases = []
    for row in rows:
        label, probabilities = session.run(None, {"features": row[None]})
        cases.append(
            {
                "body": request_body("features", [1, len(row)], row.tolist()),
                "outputs": {"label": label.tolist(), "probabilities": probabilities[0].tolist()},
            }
        )
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "tabular-example.json").write_text(json.dumps(rows[:1].tolist()))
    print(f"bare ONNX Runtime call: {call_us(session, rows[:1]):.1f} us")


def call_us(session: onnxruntime.InferenceSession, row: np.ndarray) -> float:
    """Mean microseconds of one call with one row."""
    calls = 20_000
    begin = time.perf_counter()
    for _ in range(calls):
        session.run(None, {"features": row})
    return (time.perf_counter() - begin) / calls * 1e6


def request_body(name: str, shape: list[int], data: list[float]) -> str:
    """One OIP request with one FP32 input."""
    entry = {"name": name, "shape": shape, "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [entry]}, separators=(",", ":"))


def make_identity(folder: Path) -> None:
    """Write a graph of one Identity node."""
    shape: list[str | int | None] = ["batch", *IMAGE]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["copy"])],
        "identity",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("copy", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    (folder / "identity.onnx").write_bytes(model.SerializeToString())
    zeros = [0.5] * int(np.prod(IMAGE))
    (folder / "identity-example.json").write_text(request_body("image", [1, *IMAGE], zeros))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    make_tabular(target)
    make_identity(target)
