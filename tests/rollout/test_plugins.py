"""Metrics of other people are found by a setting or an installed package, or it is said why not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from salver.control.rollouts.judging import columns_of, judge_policy
from salver.core.errors import InvalidSettings
from salver.core.rollouts import RolloutPolicy
from salver.rollout.analysis import analyse
from salver.rollout.metrics.plugins import load_plugins
from salver.rollout.metrics.table import metric, register
from salver.rollout.policy import MetricSpec, Policy
from salver.rollout.report import Verdict
from tests.rollout.tables import block, observed

MODULE = """
from salver.rollout.metrics.base import compared, events
from salver.rollout.tally import ERRORS, REQUESTS

NUMBER = 1


class Several:
    @staticmethod
    def failures(question):
        return compared(
            question,
            events(question, lambda _, rows: rows[:, REQUESTS], lambda _, rows: rows[:, ERRORS]),
        )


failures = Several.failures
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder of installed packages, with one module of metrics in it."""
    (tmp_path / "acme_metrics.py").write_text(MODULE)
    (tmp_path / "acme_broken.py").write_text("import not_there_at_all\n")
    (tmp_path / "acme_leaves.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    register({})
    for name in ("acme_metrics", "acme_broken", "acme_leaves"):
        sys.modules.pop(name, None)


def install(folder: Path, *points: str) -> None:
    """Make a package of the folder that has these entry points."""
    facts = folder / "acme-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("\n".join(("[salver.metrics]", *points, "")))


def test_a_setting_names_functions(folder: Path) -> None:
    """Each kind has its function, also one that is an attribute of something in a module."""
    del folder
    found = load_plugins("fails=acme_metrics:failures, also = acme_metrics:Several.failures,")
    assert list(found) == ["fails", "also"]
    register(found)
    assert metric("also") is found["also"]
    with pytest.raises(InvalidSettings, match="did you mean 'fails'"):
        metric("fials")
    assert load_plugins("") == {}


def test_an_installed_package_names_functions(folder: Path) -> None:
    """Nothing has to be set for it."""
    install(folder, "fails = acme_metrics:failures")
    assert list(load_plugins("")) == ["fails"]
    with pytest.raises(InvalidSettings, match=r"package acme.* so has control.metric_plugins"):
        load_plugins("fails=acme_metrics:failures")


def test_a_package_that_cannot_be_loaded_is_named(folder: Path) -> None:
    """With its group, so that one knows what to take out."""
    install(folder, "x = acme_broken:x")
    with pytest.raises(
        InvalidSettings, match=r"package acme, .*'salver.metrics'.*not_there_at_all"
    ):
        load_plugins("")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("fails", "write KIND=MODULE:FUNCTION"),
        ("fails=acme_metrics", "write KIND=MODULE:FUNCTION"),
        ("=acme_metrics:failures", "write KIND=MODULE:FUNCTION"),
        ("a b=acme_metrics:failures", "write KIND=MODULE:FUNCTION"),
        ("a=../x:y", "write KIND=MODULE:FUNCTION"),
        ("latency=acme_metrics:failures", "so has Salver itself; give it another name"),
        ("a=acme_metrics:failures,a=acme_metrics:failures", "so has control.metric_plugins"),
        ("a=acme_metrics:failure", "AttributeError: module 'acme_metrics' has no attribute"),
        ("a=acme_metrics:NUMBER", "is no function but a int"),
        ("a=nowhere_to_be_found:x", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("a=acme_broken:x", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("a=acme_leaves:x", "SystemExit: 3"),
        (",".join(f"a{n}=acme_metrics:failures" for n in range(65)), "at most 64 kinds"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_loaded_is_refused_with_its_cause(setting: str, problem: str) -> None:
    """When the process starts, and not when a rollout needs it."""
    with pytest.raises(InvalidSettings) as raised:
        load_plugins(setting)
    assert problem in raised.value.message


@pytest.mark.usefixtures("folder")
def test_a_metric_of_somebody_else_judges_like_ones_own() -> None:
    """It sees the same counts, scores too where edges are named, and comes to the same verdict."""
    register(load_plugins("fails=acme_metrics:failures"))
    specs = (MetricSpec("theirs", "fails", 0.01), MetricSpec("ours", "error_rate", 0.01))
    counted = observed(np.random.default_rng(3), 12_000, {"errors": 0.05}, where=block(1, 5000))
    theirs, ours = analyse(Policy(metrics=specs), [counted], 60.0).metrics
    assert theirs.verdict is ours.verdict is Verdict.WORSE
    assert (theirs.estimate, theirs.low) == (ours.estimate, ours.low)
    document = {
        "score_edges": [0.5],
        "metrics": [{"name": "theirs", "kind": "fails", "max_increase": 0.01}],
    }
    policy = RolloutPolicy(analysis=document)
    assert columns_of(policy, judge_policy(policy), None).primary.score_edges == (0.5,)


def test_the_example_of_the_documentation_works(folder: Path) -> None:
    """As it is printed there: it finds the class that became more frequent."""
    text = (Path(__file__).parents[2] / "docs" / "rollouts.md").read_text()
    (folder / "acme_metrics.py").write_text(text.split("```python\n")[1].split("```")[0])
    register(load_plugins("any_of=acme_metrics:any_of"))
    harmed = observed(np.random.default_rng(4), 12_000, {"labels": 0.15}, where=block(1, 5000))
    names = harmed.block.canary.labels
    specs = tuple(
        MetricSpec(name, "any_of", 0.02, direction="either", label=label)
        for name, label in (("one", names[0]), ("all", "|".join(names)), ("odd", "?"))
    )
    one, every, odd = analyse(Policy(metrics=specs), [harmed], 60.0).metrics
    assert one.verdict is Verdict.WORSE
    assert every.verdict is Verdict.EQUIVALENT
    assert odd.verdict is Verdict.FAILED
    assert odd.reason.startswith("ValueError")
