"""Each kind of step does what its library would do, row by row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from salver.core.datatypes import datatype_of
from salver.core.errors import CallerError, InvalidTensor, ModelFailed, NonFiniteOutput
from salver.core.rows import infer_inputs
from salver.core.signature import Column, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import Bound
from salver.runtimes.steps.table import KINDS, bind
from tests import models

HERE = Path()


def spec(name: str, array: AnyArray, columns: tuple[str, ...] = ()) -> TensorSpec:
    """Describe an array."""
    shape = (-1, *array.shape[1:])
    return TensorSpec(name, datatype_of(array.dtype), shape, tuple(map(Column, columns)))


def bound(batch: Batch, *steps: dict[str, Any], folder: Path = HERE) -> Bound:
    """Fit steps to a batch."""
    return bind(steps, {name: spec(name, array) for name, array in batch.items()}, folder, "before")


def run(batch: Batch, *steps: dict[str, Any]) -> Batch:
    """Take a batch through steps; what comes out is as the steps said, row by row the same."""
    fitted = bound(batch, *steps)
    before = {name: array.copy() for name, array in batch.items()}
    for array in batch.values():
        array.flags.writeable = False
    together = fitted.apply(batch)
    assert list(together) == list(fitted.specs)
    for name, array in together.items():
        assert datatype_of(array.dtype) == fitted.specs[name].datatype, name
        assert fitted.specs[name].accepts_shape(array.shape), name
    for name, array in before.items():
        np.testing.assert_array_equal(batch[name], array)
    for row in range(len(next(iter(batch.values())))):
        alone = fitted.apply({name: array[row : row + 1] for name, array in batch.items()})
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][row])
    return together


def text(*items: str | bytes) -> AnyArray:
    """Return a column of text."""
    array = np.empty((len(items), 1), dtype=object)
    array[:, 0] = [item.encode() if isinstance(item, str) else item for item in items]
    return array


def car_batch() -> Batch:
    """Return the cars as a push sees them."""
    return {tensor.name: tensor.array() for tensor in infer_inputs(models.cars())[1]}


def test_every_kind_is_tried_here() -> None:
    """A kind that this file does not name would not be checked."""
    source = Path(__file__).read_text()
    assert [kind for kind in KINDS if f'"step": "{kind}"' not in source] == []


def test_scale_is_what_the_library_does() -> None:
    """Shifted and divided, column by column, also inside one tensor; integers become floats."""
    rows = models.rows("wine")
    scaler = StandardScaler().fit(rows)
    whole = {"subtract": scaler.mean_.tolist(), "divide": scaler.scale_.tolist()}
    answer = run({"x": rows}, {"step": "scale", "columns": {"x": whole}})
    np.testing.assert_allclose(answer["x"], scaler.transform(rows))
    apart = {
        f"x[{at}]": {"subtract": mean, "divide": deviation}
        for at, (mean, deviation) in enumerate(
            zip(scaler.mean_.tolist(), scaler.scale_.tolist(), strict=True)
        )
    }
    answer = run({"x": rows}, {"step": "scale", "columns": apart})
    np.testing.assert_allclose(answer["x"], scaler.transform(rows))
    pixels = np.array([[0, 255]], np.uint8)
    answer = run({"x": pixels}, {"step": "scale", "columns": {"x": {"divide": 255}}})
    assert answer["x"].tolist() == [[0.0, 1.0]]
    assert answer["x"].dtype == np.float32


def test_one_hot_is_what_the_library_does() -> None:
    """Categories become columns in their order; an unknown one is zeros or the caller's error."""
    batch = car_batch()
    origins = batch["Origin"]
    encoder = OneHotEncoder(sparse_output=False).fit(origins)
    names = [name.decode() for name in encoder.categories_[0]]
    step = {"step": "one_hot", "columns": {"Origin": names}}
    answer = run(batch, step)
    np.testing.assert_array_equal(answer["Origin"], encoder.transform(origins))
    columns = bound(batch, step).specs["Origin"].columns
    assert [column.name for column in columns] == [f"Origin={name}" for name in names]
    strange = {"Origin": text("Mars", "USA")}
    assert run(strange, step)["Origin"].sum(axis=1).tolist() == [0.0, 1.0]
    with pytest.raises(InvalidTensor, match="'Mars' is no known category"):
        bound(strange, {**step, "unknown": "refuse"}).apply(strange)


def test_one_hot_of_numbers_inside_a_table() -> None:
    """A column of a tensor becomes a tensor of its own, and the others stay."""
    rows = {"x": np.array([[1.0, 4.0], [2.0, 6.0], [3.0, 9.0]])}
    answer = run(rows, {"step": "one_hot", "columns": {"x[1]": [4, 6.0]}})
    assert answer["x[1]"].tolist() == [[1, 0], [0, 1], [0, 0]]
    np.testing.assert_array_equal(answer["x"], rows["x"])


def test_one_hot_knows_floats_of_any_width() -> None:
    """A category is the number that the tensor holds, which for 0.1 differs by datatype."""
    for dtype in (np.float16, np.float32, np.float64):
        rows = {"x": np.array([[0.5], [0.1], [2.0]], dtype)}
        answer = run(rows, {"step": "one_hot", "columns": {"x": [0.1, 0.5]}})
        assert answer["x"].tolist() == [[0, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("batch", "step"),
    [
        ({"x": np.zeros((30, 1), np.int8)}, {"step": "one_hot", "columns": {"x": [1, 2, 3]}}),
        (
            {"x": np.zeros((30, 1), np.int8)},
            {"step": "select", "columns": ["x"], "into": "X", "datatype": "FP64"},
        ),
        ({"x": np.zeros((30, 1), np.int8)}, {"step": "cast", "to": {"x": "FP64"}}),
        (
            {"x": np.zeros(30, np.int8)},
            {"step": "labels", "tensor": "x", "names": ["a long name"]},
        ),
        (
            {"x": np.zeros((30, 1), np.int8)},
            {"step": "top_k", "tensor": "x", "k": 1, "names": ["a long name"]},
        ),
    ],
)
def test_what_a_step_makes_of_a_batch_is_bounded(batch: Batch, step: dict[str, Any]) -> None:
    """Rows that would become more than the limit are the caller's error, before they do."""
    specs = {name: spec(name, array) for name, array in batch.items()}
    fitted = bind([step], specs, HERE, "before", 200)
    fitted.apply({name: array[:3] for name, array in batch.items()})
    with pytest.raises(InvalidTensor, match="send fewer rows"):
        fitted.apply(batch)


def test_fill_puts_values_where_there_are_none() -> None:
    """NaN among numbers and empty text are replaced; everything else stays."""
    batch = {"x": np.array([[1.0, np.nan], [np.nan, 4.0]]), "city": text("", "Rom")}
    answer = run(batch, {"step": "fill", "columns": {"x[0]": 7, "city": "none"}})
    np.testing.assert_array_equal(answer["x"], [[1.0, np.nan], [7.0, 4.0]])
    assert answer["city"].ravel().tolist() == [b"none", b"Rom"]
    cars = car_batch()
    assert np.isnan(cars["Horsepower"]).sum() == 6
    filled = run(cars, {"step": "fill", "columns": {"Horsepower": 100.5}})
    assert (filled["Horsepower"] == 100.5).sum() == 6


def test_select_orders_and_joins() -> None:
    """Columns come out in the order named, apart or as one tensor."""
    batch = {"x": np.array([[1.0, 2.0, 3.0]]), "n": np.array([[4]]), "city": text("Rom")}
    answer = run(batch, {"step": "select", "columns": ["city", "x[2]"]})
    assert [name for name, _ in answer.items()] == ["city", "x[2]"]
    assert answer["x[2]"].tolist() == [[3.0]]
    joined = {"step": "select", "columns": ["n", "x", "x[0]"], "into": "X", "datatype": "FP32"}
    assert run(batch, joined)["X"].tolist() == [[4.0, 1.0, 2.0, 3.0, 1.0]]
    names = [column.name for column in bound(batch, joined).specs["X"].columns]
    assert names == ["n", "x[0]", "x[1]", "x[2]", "x[0]"]
    assert run(batch, {"step": "select", "columns": ["city"], "into": "t"})["t"].shape == (1, 1)


def test_cast_keeps_what_can_be_kept() -> None:
    """Text spells numbers, numbers are written, fractions are cut off, empty cells are missing."""
    batch = {"a": text("1.5", " ", "-3e2"), "b": np.array([[1.9], [-1.9], [0.0]])}
    answer = run(batch, {"step": "cast", "to": {"a": "FP32", "b": "INT8"}})
    np.testing.assert_array_equal(answer["a"], np.array([[1.5], [np.nan], [-300]], np.float32))
    assert answer["b"].tolist() == [[1], [-1], [0]]
    assert run(batch, {"step": "cast", "to": {"b": "BYTES"}})["b"].tolist() == [
        [b"1.9"], [b"-1.9"], [b"0.0"],
    ]  # fmt: skip
    for dtype, to in ((np.float16, "INT16"), (np.float32, "INT32"), (np.float32, "INT64")):
        least = np.array([[np.iinfo(to.lower()).min]], dtype)
        assert run({"n": least}, {"step": "cast", "to": {"n": to}})["n"] == np.iinfo(to.lower()).min
    assert run({"n": text("7")}, {"step": "cast", "to": {"n": "INT64"}})["n"].tolist() == [[7]]


@pytest.mark.parametrize(
    ("value", "to", "cause"),
    [
        (text("abc"), "FP32", "'abc' spells no FP32"),
        (text("1_0"), "INT64", "spells no INT64"),
        (text("1.5"), "INT64", "spells no INT64"),
        (text(b"\xff"), "FP32", "spells no FP32"),
        (text("9" * 30), "INT64", "beyond INT64"),
        (text("1e999"), "FP32", ""),
        (np.array([[300.0]]), "UINT8", "300.0 is beyond UINT8"),
        (np.array([[-1]]), "UINT64", "-1 is beyond UINT64"),
        (np.array([[2.0**63]]), "INT64", "beyond INT64"),
        (np.array([[np.nan]]), "INT32", "nan is beyond INT32"),
        (np.array([[1e300]]), "FP32", "beyond FP32"),
        (np.array([[-2147483904]], np.float32), "INT32", "beyond INT32"),
    ],
)
def test_cast_refuses_what_would_be_another_value(value: AnyArray, to: str, cause: str) -> None:
    """A value that does not fit is the caller's error, never another number."""
    step = bound({"v": value}, {"step": "cast", "to": {"v": to}})
    if not cause:
        assert np.isinf(step.apply({"v": value})["v"]).all()
        return
    with pytest.raises(InvalidTensor, match=cause):
        step.apply({"v": value})


@given(
    hnp.arrays(
        st.sampled_from(
            [np.float16, np.float32, np.float64, np.int64, np.int32, np.uint8, np.uint64, np.bool_]
        ),
        st.tuples(st.integers(1, 4), st.just(1)),
    ),
    st.sampled_from(["INT8", "UINT8", "INT32", "INT64", "UINT64"]),
)
def test_a_cast_number_is_the_number_without_its_fraction(values: AnyArray, to: str) -> None:
    """Whatever is not refused is the same whole number; what could be kept is not refused."""
    step = bound({"v": values}, {"step": "cast", "to": {"v": to}})
    whole = [int(v) if np.isfinite(v) else None for v in values.ravel().tolist()]
    limits = np.iinfo(to.lower())
    fits = all(v is not None and limits.min <= v <= limits.max for v in whole)
    try:
        answer = step.apply({"v": values})["v"].ravel().tolist()
    except InvalidTensor:
        assert not fits
    else:
        assert fits
        assert answer == whole


def test_softmax_is_what_the_library_does() -> None:
    """Also for scores far from zero."""
    scores = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]])
    answer = run({"s": scores}, {"step": "softmax", "tensor": "s", "into": "p"})
    np.testing.assert_allclose(answer["p"], scipy.special.softmax(scores, axis=-1))
    assert answer["s"] is scores


def test_threshold_decides() -> None:
    """At the limit counts as over it; a column of several can be looked at."""
    batch = {"p": np.array([[0.2, 0.8], [0.5, 0.5], [0.9, np.nan]])}
    step = {"step": "threshold", "tensor": "p", "at": 0.5, "into": "yes"}
    assert run(batch, {**step, "column": 1})["yes"].tolist() == [True, True, False]
    assert run(batch, step)["yes"].tolist() == [[False, True], [True, True], [True, False]]


def test_labels_name_scores_and_numbers() -> None:
    """The greatest score, each whole number, and truth values get their name."""
    names = ["no", "maybe", "yes"]
    scores = {"s": np.array([[0.1, 0.2, 0.7], [0.9, 0.05, 0.05]], np.float32)}
    step = {"step": "labels", "tensor": "s", "names": names}
    assert run(scores, step)["label"].tolist() == [b"yes", b"no"]
    assert run({"s": np.array([2, 0])}, step)["label"].tolist() == [b"yes", b"no"]
    assert run({"s": np.array([[True], [False]])}, step)["label"].tolist() == [[b"maybe"], [b"no"]]
    with pytest.raises(ModelFailed, match="names for 0 to 2"):
        run({"s": np.array([3])}, step)
    with pytest.raises(ModelFailed, match="names 3 values"):
        run({"s": np.zeros((1, 4))}, step)


@pytest.mark.parametrize("kind", [{"step": "labels"}, {"step": "top_k", "k": 1}])
def test_scores_that_are_no_numbers_get_no_name(kind: dict[str, Any]) -> None:
    """NaN among the scores is the model's error, not the first name."""
    step = {**kind, "tensor": "s", "names": ["good", "bad"]}
    for score in ([np.nan, np.nan], [0.1, np.nan]):
        with pytest.raises(NonFiniteOutput, match="NaN"):
            run({"s": np.array([score], np.float32)}, step)
    run({"s": np.array([[-np.inf, np.inf]], np.float32)}, step)


def test_top_k_is_in_order() -> None:
    """Greatest first, the first of equals first; positions or names."""
    scores = {"s": np.array([[0.1, 0.5, 0.5, 0.3], [0.0, 1.0, 2.0, 3.0]])}
    step: dict[str, Any] = {"step": "top_k", "tensor": "s", "k": 3}
    answer = run(scores, step)
    assert answer["top"].tolist() == [[1, 2, 3], [3, 2, 1]]
    assert answer["top_scores"].tolist() == [[0.5, 0.5, 0.3], [3.0, 2.0, 1.0]]
    named = run(scores, {**step, "names": ["a", "b", "c", "d"], "into": "kinds", "scores": "how"})
    assert named["kinds"].tolist() == [[b"b", b"c", b"d"], [b"d", b"c", b"b"]]
    equals = run({"s": np.tile([0.5, 0.25], (1, 50))}, {**step, "k": 60})
    assert equals["top"].tolist() == [[*range(0, 100, 2), *range(1, 20, 2)]]
    everything = run({"s": models.rows("iris")}, {"step": "top_k", "tensor": "s", "k": 4})
    np.testing.assert_array_equal(everything["top_scores"], -np.sort(-models.rows("iris"), axis=1))


SENTENCES = (
    "A salver is a tray.",
    "",
    "The quick brown fox jumps over the lazy dog, again and again and again.",
    "Grüße aus Köln 🎉",
)


def test_tokenize_is_what_the_library_does(tmp_path: Path) -> None:
    """Ids and masks of each text are those that the tokenizer gives for it alone, then padding."""
    from tokenizers import Tokenizer  # noqa: PLC0415

    folder = models.minilm(tmp_path / "m")
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    alone.no_padding()
    alone.enable_truncation(12)
    batch = {"t": text(*SENTENCES)}
    step = {"step": "tokenize", "column": "t", "max_length": 12, "outputs": {"types": "kind"}}
    answer = bound(batch, step, folder=folder).apply(batch)
    assert list(answer) == ["input_ids", "attention_mask", "kind"]
    for row, sentence in enumerate(SENTENCES):
        ids = alone.encode(sentence).ids
        assert answer["input_ids"][row][: len(ids)].tolist() == ids
        assert answer["attention_mask"][row].tolist() == [1] * len(ids) + [0] * (
            answer["input_ids"].shape[1] - len(ids)
        )
        assert not answer["input_ids"][row][len(ids) :].any()
    limited = bind([step], {"t": spec("t", batch["t"])}, folder, "before", 3 * 8 * 2 * 12)
    assert limited.apply({"t": batch["t"][:2]})["kind"].shape[0] == 2
    with pytest.raises(InvalidTensor, match="send fewer rows"):
        limited.apply(batch)
    fixed = bound(batch, {**step, "pad": "max_length"}, folder=folder)
    assert fixed.specs["input_ids"].shape == (-1, 12)
    assert fixed.apply({"t": text("a")})["input_ids"].shape == (1, 12)


def test_tokenize_refuses_what_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 and more of them than allowed are the caller's error."""
    folder = models.minilm(tmp_path / "m")
    step = {"step": "tokenize", "column": "t", "max_bytes": 10}
    fitted = bound({"t": text("a")}, step, folder=folder)
    for value, cause in ((b"\xff\xfe", "not UTF-8"), (b"x" * 11, "at most 10")):
        with pytest.raises(CallerError, match=cause):
            fitted.apply({"t": text("fine", value)})
