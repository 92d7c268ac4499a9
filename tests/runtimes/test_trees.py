"""Decision trees of scikit-learn whose nodes lead elsewhere."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomTreesEmbedding,
    StackingClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from salver.core.errors import InvalidArtifact
from salver.runtimes.trees import check_trees

DATA = load_iris()


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeClassifier(max_leaf_nodes=6, ccp_alpha=0.01),
        RandomForestClassifier(3),
        GradientBoostingClassifier(n_estimators=3),
        HistGradientBoostingClassifier(max_iter=3),
        HistGradientBoostingClassifier(max_iter=3, categorical_features=[1, 3]),
        BaggingClassifier(DecisionTreeClassifier(), 3, max_features=2),
        IsolationForest(n_estimators=3),
        IsolationForest(n_estimators=3, max_features=2),
        RandomTreesEmbedding(3),
        StackingClassifier([("tree", DecisionTreeClassifier())], RandomForestClassifier(2), cv=2),
        make_pipeline(PolynomialFeatures(), DecisionTreeClassifier()),
    ],
)
def test_trees_as_they_are_fitted_pass(model: Any) -> None:
    """Every way to build trees numbers children after their parents."""
    check_trees(make_pipeline(model).fit(DATA.data, DATA.target))


@pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
@pytest.mark.parametrize("value", [-7, 0, 1 << 40])
def test_damaged_nodes_are_refused(field: str, value: int) -> None:
    """A child out of range, a circle, and a column that is not there."""
    model = make_pipeline(RandomForestClassifier(2, random_state=0)).fit(DATA.data, DATA.target)
    tree = model[0].estimators_[1].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][0] = value if (field, value) != ("feature", 0) else 4
    tree.__setstate__(state)
    with pytest.raises(InvalidArtifact, match="tree"):
        check_trees(model)


@pytest.mark.parametrize("field", ["left", "right", "feature_idx"])
def test_damaged_histogram_trees_are_refused(field: str) -> None:
    """So are those of histogram gradient boosting."""
    model = HistGradientBoostingClassifier(max_iter=2).fit(DATA.data, DATA.target)
    model._predictors[1][0].nodes[field][0] = 100_000
    with pytest.raises(InvalidArtifact, match="tree"):
        check_trees([model])


def widen(estimator: Any, columns: int) -> None:
    """Let a fitted tree say that it has so many columns, and look at the last of them."""
    state = estimator.tree_.__getstate__()
    nodes = state["nodes"].copy()
    nodes["feature"][nodes["left_child"] != -1] = columns - 1
    estimator.tree_ = Tree(columns, estimator.tree_.n_classes, 1)
    estimator.tree_.__setstate__({**state, "nodes": nodes})


def test_a_tree_has_the_columns_of_its_estimator() -> None:
    """What a tree says of its own columns counts as little as its nodes do."""
    model = DecisionTreeClassifier().fit(DATA.data, DATA.target)
    widen(model, 10**9)
    with pytest.raises(InvalidArtifact, match="columns"):
        check_trees(model)
    del model.n_features_in_
    with pytest.raises(InvalidArtifact, match="columns"):
        check_trees(model)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(2),
        GradientBoostingClassifier(n_estimators=2),
        IsolationForest(n_estimators=2),
        IsolationForest(n_estimators=2, max_features=2),
    ],
)
def test_a_tree_has_the_columns_of_its_ensemble(model: Any) -> None:
    """Ensembles do not look at what their estimators ask for, so that it has to agree."""
    model.fit(DATA.data, DATA.target)
    member = np.ravel(np.array(model.estimators_, dtype=object))[1]
    widen(member, 10**9)
    member.n_features_in_ = 10**9
    with pytest.raises(InvalidArtifact, match="columns"):
        check_trees([model])


def by_category() -> HistGradientBoostingClassifier:
    """Return a model some of whose nodes ask for the category of column 1."""
    rng = np.random.default_rng(0)
    rows = rng.random((300, 3))
    rows[:, 1] = rng.integers(0, 6, 300)
    model = HistGradientBoostingClassifier(
        max_iter=2, categorical_features=[1], min_samples_leaf=5
    ).fit(rows, rows[:, 1] % 2)
    check_trees(model)
    return model


@pytest.mark.parametrize(
    ("field", "value"), [("bitset_idx", 2**31), ("feature_idx", 2), ("is_categorical", 1)]
)
def test_damaged_categories_are_refused(field: str, value: int) -> None:
    """A set of categories out of range, and categories of a column that has none."""
    model = by_category()
    nodes = model._predictors[1][0].nodes
    assert nodes["is_categorical"][0]
    nodes[field][0] = value
    if field == "is_categorical":
        model._bin_mapper.is_categorical_[:] = False
    with pytest.raises(InvalidArtifact, match="categories"):
        check_trees(model)


def test_categories_and_nodes_have_their_own_layout() -> None:
    """Compiled code goes by the places of fields, so that names may not say otherwise."""
    model = by_category()
    predictor = model._predictors[0][0]
    predictor.raw_left_cat_bitsets = predictor.raw_left_cat_bitsets[:, :4].copy()
    with pytest.raises(InvalidArtifact, match="layout"):
        check_trees(model)
    model = by_category()
    predictor = model._predictors[0][0]
    swapped = {"left": "bitset_idx", "bitset_idx": "left"}
    fields = [(swapped.get(name, name), kind) for name, kind in predictor.nodes.dtype.descr]
    predictor.nodes = predictor.nodes.view(fields)
    with pytest.raises(InvalidArtifact, match="layout"):
        check_trees(model)
