"""What stands against several changes is known before the first of them is made."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from salver.control.admission import Admission, Step
from salver.core.clock import ManualClock
from salver.core.errors import SalverError
from salver.core.hosting import DEDICATED, Hosting, Limits
from salver.core.names import ModelReference
from salver.core.rollouts import RolloutPolicy
from salver.core.settings import EngineSettings, Settings
from salver.registry.records import EndpointSpec, VersionRecord
from tests.control.parts import Control, control, push

SIZE_BYTES = 100
SETTINGS = Settings(engine=EngineSettings(memory_budget_bytes=3 * SIZE_BYTES))
SERVING = ("a m:1", "b n:1")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Control]:
    """Give a control whose endpoints a and b serve the first versions of m and n."""
    made = control(tmp_path, "one", ManualClock(), settings=SETTINGS)
    for model in ("m", "n"):
        push(made, model, 2)
        made.catalog.save_sizes({f"{model}:{number}": SIZE_BYTES for number in (1, 2)})
    for name, model in (("a", "m"), ("b", "n")):
        record = made.catalog.resolve(ModelReference(model, 1))
        made.placing.put(EndpointSpec(name, model, 1), record, (), force=False)
    yield made
    made.thread.stop()
    made.database.close()


def admission(parts: Control) -> Admission:
    """Return the checks of a control."""
    return Admission(parts.reconciler, parts.catalog, parts.state, parts.placing)


def told(parts: Control, *steps: Step) -> list[tuple[str, str, str]]:
    """Return what stands against steps: endpoint, key and code."""
    found = admission(parts).rehearse(steps, SERVING, "alice")
    return [(refusal.name, refusal.key, refusal.error.code) for refusal in found]


def step(name: str, model: str, hosting: Hosting | None = None) -> Step:
    """Return the wish for an endpoint."""
    return Step(name, EndpointSpec(name, "", hosting=hosting or Hosting()), model)


def test_two_new_endpoints_may_not_host_one_version_in_two_ways(parts: Control) -> None:
    """Neither is there yet, and the second one would be refused after the first was made."""
    one, other = Hosting(DEDICATED), Hosting(DEDICATED, limits=Limits("1"))
    both = (step("c", "m:2", one), step("d", "m:2", other))
    assert told(parts, *both) == [("d", "hosting", "conflict")]
    assert told(parts, step("c", "m:2", one), step("d", "m:2", one)) == []


def test_hostings_of_other_models_are_not_looked_up(
    parts: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of endpoints with limits of their own are checked in the time of as many."""
    names = [f"o{number}" for number in range(12)]
    for name in names:
        push(parts, name, 1)
    asked: list[str] = []
    resolve = parts.catalog.resolve

    def noted(reference: ModelReference) -> VersionRecord:
        asked.append(reference.name)
        return resolve(reference)

    monkeypatch.setattr(parts.catalog, "resolve", noted)
    steps = [
        step(name, f"{name}:1", Hosting(DEDICATED, limits=Limits(memory_bytes=number + (1 << 30))))
        for number, name in enumerate(names)
    ]
    assert told(parts, *steps) == []
    assert Counter(asked)[names[0]] <= 3


def test_what_an_earlier_change_keeps_in_memory_counts(parts: Control) -> None:
    """Each fits by itself: the second not any more, as the first one's old version stays."""
    assert told(parts, step("a", "m:2")) == []
    assert told(parts, step("b", "n:2")) == []
    assert told(parts, step("a", "m:2"), step("b", "n:2")) == []
    parts.catalog.save_sizes({"m:1": 2 * SIZE_BYTES})
    assert told(parts, step("b", "n:2")) == []
    assert told(parts, step("a", "m:2"), step("b", "n:2")) == [("b", "", "memory_budget_exceeded")]


def test_all_that_is_wrong_with_an_endpoint_is_told(parts: Control) -> None:
    """An unknown model hides no webhook, and an endpoint that is wrong hides no other."""
    assert told(parts, step("c", "x:1"), step("d", "m:9")) == [
        ("c", "model", "model_not_found"),
        ("d", "model", "version_not_found"),
    ]
    parts.store.freeze("a", "alice", "incident")
    assert told(parts, step("a", "m:2"), Step("a")) == [
        ("a", "", "endpoint_frozen"),
        ("a", "", "endpoint_frozen"),
    ]


def test_an_endpoint_that_follows_its_alias_is_rehearsed_with_its_own_version(
    parts: Control,
) -> None:
    """More replicas are no other version; without its policy it would change over at once."""
    policy = RolloutPolicy()
    record = parts.catalog.resolve(ModelReference("m", 1))
    follows = EndpointSpec("f", "m", 1, "best", rollout=policy)
    parts.placing.put(follows, record, (), force=False)
    parts.catalog.set_alias("m", "best", 2)
    with parts.database.write() as connection:
        parts.store._mark(connection, "other", "m:2", "it was worse")
    more = Step("f", EndpointSpec("f", "", replicas=2, rollout=policy), "m@best")
    assert told(parts, more) == []
    apart = Step("f", EndpointSpec("f", "", replicas=2), "m@best")
    assert told(parts, apart) == [("f", "", "version_rolled_back")]


def test_each_part_of_a_wish_is_checked(parts: Control) -> None:
    """Not only the first that is wrong is told."""
    policy = RolloutPolicy(analysis={"alpha": 0.9})
    wrong = EndpointSpec(
        "../c", "", validation="x", batching="y", scale_on="z", rollout=policy,
        hosting=Hosting("cloud"),
    )  # fmt: skip
    found = [refusal.key for refusal in admission(parts).refusals([wrong])]
    assert found == ["name", "validation", "batching", "replicas", "hosting", "rollout.analysis"]


def done(parts: Control, steps: Sequence[Step], serving: Sequence[str]) -> list[str]:
    """Take steps one after the other; returns what is refused: endpoint and code."""
    check, codes = admission(parts), []
    for each in steps:
        assert each.spec is not None
        model, _, number = each.model.partition(":")
        others = parts.state.endpoints()
        wanted, record = check.resolved(each.spec, ModelReference(model, int(number)), others)
        try:
            parts.placing.put(wanted, record, serving, force=False)
        except SalverError as error:
            codes.append(f"{each.name} {error.code}")
    return codes


def adaptive(name: str, model: str) -> Step:
    """Return the wish for an endpoint with another option."""
    return Step(name, EndpointSpec(name, "", batching="adaptive"), model)


OPTIONS = (adaptive("a", "m:1"), step("b", "n:2")), SERVING, {"n:2": 150}
NOT_SERVING = (adaptive("a", "m:2"), step("b", "n:2")), ("b n:1",), {"m:1": 200, "m:2": 50}
VERSIONS = (step("a", "m:2"), step("b", "n:2")), SERVING, {"m:1": 200}


@pytest.mark.parametrize(
    ("before", "world", "refused"),
    [
        ((), VERSIONS, ["b memory_budget_exceeded"]),
        ((), OPTIONS, []),
        ((step("a", "m:2"),), NOT_SERVING, ["b memory_budget_exceeded"]),
    ],
    ids=["versions", "only options", "beside what was kept before"],
)
def test_a_rehearsal_says_what_happens(
    parts: Control,
    before: Sequence[Step],
    world: tuple[Sequence[Step], Sequence[str], dict[str, int]],
    refused: list[str],
) -> None:
    """What it takes is done without a refusal, and what it refuses is refused when it is done."""
    steps, serving, sizes = world
    parts.catalog.save_sizes(sizes)
    assert done(parts, before, SERVING) == []
    found = admission(parts).rehearse(steps, serving, "alice")
    assert [f"{refusal.name} {refusal.error.code}" for refusal in found] == refused
    assert done(parts, steps, serving) == refused
