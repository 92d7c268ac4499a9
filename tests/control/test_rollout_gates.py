"""What must fit into memory before an endpoint gets another version."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from salver.control.rollouts.gates import Gates
from salver.core.clock import ManualClock
from salver.core.errors import MemoryBudgetExceeded
from salver.core.hosting import DEDICATED, Hosting
from salver.core.rollouts import RolloutPolicy
from salver.core.routing import ARM, CANARY, SHADOW
from salver.core.settings import EngineSettings, Settings
from salver.registry.records import EndpointSpec, VersionRecord
from salver.rollout.machine import Rollout
from tests.control.parts import Control, control
from tests.control.test_planner import coded, version

SIZE_BYTES = 100
SPEC = EndpointSpec("e", "m", 2)

Open = Callable[..., Control]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Give what opens a control whose endpoint has version 2, and had version 1 before."""
    made: list[Control] = []

    def open_control(sizes: int, keep_s: float = 0.0, **engine: Any) -> Control:
        settings = EngineSettings(memory_budget_bytes=sizes * SIZE_BYTES, **engine)
        parts = control(tmp_path, "one", ManualClock(), settings=Settings(engine=settings))
        made.append(parts)
        versions(parts, "m", 3)
        parts.store.put(SPEC, EndpointSpec("e", "m", 1), keep_s)
        return parts

    yield open_control
    for parts in made:
        parts.thread.stop()


def versions(parts: Control, model: str, count: int) -> list[VersionRecord]:
    """Store versions of a model, each of the same size."""
    numbers = range(1, count + 1)
    create = parts.catalog.create_version
    made = [create(model, version(n).manifest, "me", {})[0] for n in numbers]
    parts.catalog.save_sizes({each.id: SIZE_BYTES for each in made})
    return made


def gates(parts: Control, bases: Mapping[str, int] | None = None) -> Gates:
    """Return a control's gates; ``bases`` are what its workers take without models."""
    found = parts.placing._gates
    found._memory._bases = lambda: bases or {}
    return found


def three(parts: Control) -> Sequence[VersionRecord]:
    """Return the versions of the endpoint's model."""
    return parts.catalog.model("m").versions


def test_a_kept_version_of_the_endpoint_itself_counts_beside_others(opened: Open) -> None:
    """A rollout or an experiment pins what was kept, the primary and the new version together."""
    parts = opened(2, keep_s=60.0)
    _, old, new = three(parts)
    with pytest.raises(MemoryBudgetExceeded, match="300 bytes"):
        gates(parts).check_version(SPEC, old, new, CANARY)
    gates(opened(3, keep_s=60.0)).check_version(SPEC, old, new, CANARY)


def test_a_deploy_replaces_what_was_kept(opened: Open) -> None:
    """The version before the last leaves when another takes the place of the last."""
    parts = opened(2, keep_s=60.0)
    _, old, new = three(parts)
    gates(parts).check_version(SPEC, old, new)
    assert gates(parts).fits(SPEC, old, new)


def test_a_rollout_back_to_what_was_kept_counts_it_once(opened: Open) -> None:
    """One version takes its memory once, and none when its time is over."""
    parts = opened(2, keep_s=60.0)
    kept, old, new = three(parts)
    gates(parts).check_version(SPEC, old, kept, CANARY)
    gates(opened(2)).check_version(SPEC, old, new, CANARY)


def test_what_a_process_takes_itself_leaves_less_room(opened: Open) -> None:
    """Also in a successor, and in a worker that has not reported yet."""
    parts = opened(2)
    _, old, new = three(parts)
    for worker in ("shared-0", "shared-0.1", "shared-1"):
        with pytest.raises(MemoryBudgetExceeded, match="250 bytes"):
            gates(parts, {worker: 50}).check_version(SPEC, old, new, CANARY)
    gates(parts).check_version(SPEC, old, new, CANARY)


def test_a_pinned_endpoint_counts_and_another_only_by_itself(opened: Open) -> None:
    """What is not pinned leaves when there is no room, but must be able to come back."""
    parts = opened(3)
    _, old, new = three(parts)
    (other,) = versions(parts, "other", 1)
    spec = EndpointSpec("f", "other", 1)
    parts.store.put(spec, None, 0.0)
    gates(parts).check_version(SPEC, old, new, CANARY)
    parts.store.put(msgspec.structs.replace(spec, pinned=True), None, 0.0)
    gates(parts).check_version(SPEC, old, new, CANARY)
    parts = opened(2)
    with pytest.raises(MemoryBudgetExceeded, match="300 bytes"):
        gates(parts).check_version(SPEC, old, new, CANARY)
    parts.store.put(spec, None, 0.0)
    with pytest.raises(MemoryBudgetExceeded, match=f"{other.id}, what else"):
        gates(parts).check_version(SPEC, old, new, CANARY)


def test_what_did_not_fit_before_keeps_nobody_else_out(opened: Open) -> None:
    """A model that is too large for the budget is refused itself, and pins nothing."""
    parts = opened(2)
    _, old, new = three(parts)
    (other,) = versions(parts, "other", 1)
    parts.catalog.save_sizes({other.id: 10 * SIZE_BYTES})
    parts.store.put(EndpointSpec("f", "other", 1), None, 0.0)
    gates(parts).check_version(SPEC, old, new, CANARY)


def test_the_new_version_of_another_rollout_counts(opened: Open) -> None:
    """It and its primary are pinned until it ends, also before any plan has them."""
    parts = opened(3)
    _, old, new = three(parts)
    first, second = versions(parts, "other", 2)
    parts.store.put(EndpointSpec("f", "other", 1), None, 0.0)
    gates(parts).check_version(SPEC, old, new, CANARY)
    policy = RolloutPolicy()
    parts.begin(Rollout("f", 0, first.id, second.id, policy, "s", 0, "alice"))
    with pytest.raises(MemoryBudgetExceeded, match="400 bytes"):
        gates(parts).check_version(SPEC, old, new, CANARY)


def test_all_arms_of_an_experiment_need_room_together(opened: Open) -> None:
    """Two that would fit one by one may not do so beside each other."""
    parts = opened(2)
    first, old, new = three(parts)
    gates(parts).check_version(SPEC, old, new, ARM)
    with pytest.raises(MemoryBudgetExceeded, match="300 bytes"):
        gates(parts).check_version(SPEC, old, new, ARM, (first, old, new))


def test_versions_with_workers_of_their_own_take_none_of_it(opened: Open) -> None:
    """Code, dedicated endpoints and shadows are in other processes, which have no budget."""
    parts = opened(1)
    _, old, new = three(parts)
    with pytest.raises(MemoryBudgetExceeded):
        gates(parts).check_version(SPEC, old, new, CANARY)
    gates(parts).check_version(SPEC, old, new, SHADOW)
    manifests = [coded(n, "code").manifest for n in (1, 2)]
    code = [parts.catalog.create_version("code", one, "me", {})[0] for one in manifests]
    parts.catalog.save_sizes({each.id: 9 * SIZE_BYTES for each in code})
    spec = EndpointSpec("c", "code", 1, pinned=True)
    parts.store.put(spec, None, 0.0)
    gates(parts).check_version(spec, code[0], code[1], CANARY)
    own = msgspec.structs.replace(SPEC, hosting=Hosting(kind=DEDICATED))
    parts.store.put(own, None, 0.0)
    gates(parts).check_version(own, old, new, CANARY)


def test_a_shadow_keeps_no_primary_in_memory(opened: Open) -> None:
    """Models that take turns in memory go on doing so; a rollout would pin one of them."""
    parts = opened(2)
    _, old, new = three(parts)
    (other,) = versions(parts, "other", 1)
    parts.catalog.save_sizes({other.id: 2 * SIZE_BYTES, new.id: 0})
    parts.store.put(EndpointSpec("f", "other", 1), None, 0.0)
    gates(parts).check_version(SPEC, old, new, SHADOW)
    with pytest.raises(MemoryBudgetExceeded, match=f"{other.id}, what else"):
        gates(parts).check_version(SPEC, old, new, CANARY)


def test_each_of_several_workers_has_its_own_room(opened: Open) -> None:
    """The new version goes to where the least is; what fills another worker does not matter."""
    parts = opened(1, shared_workers=2)
    _, old, new = three(parts)
    gates(parts).check_version(SPEC, old, new, CANARY)
    versions(parts, "other", 1)
    parts.store.put(EndpointSpec("f", "other", 1, pinned=True), None, 0.0)
    with pytest.raises(MemoryBudgetExceeded, match="200 bytes"):
        gates(parts).check_version(SPEC, old, new, CANARY)
