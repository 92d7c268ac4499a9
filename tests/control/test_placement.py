"""Where versions are placed: spread by size, stable, each in one way."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from salver.control.desired import Arm, Desired, Observed
from salver.control.hosts import failure, placed, successions
from salver.control.in_force import up_to_date_workers
from salver.control.loads import AddressOf
from salver.control.placement import agreed, has_own, homes, runs_code
from salver.control.planner import next_plan
from salver.control.rollouts.wishes import Wishes
from salver.core.hosting import Execution, Hosting, Limits
from salver.core.rollouts import BLUE_GREEN, RolloutPolicy, check_policy
from salver.core.settings import Settings
from salver.registry.records import EndpointSpec
from salver.rollout.machine import PREPARING, Rollout
from salver.wire.messages import Plan, VariantState, WorkerPlan
from tests.control.test_planner import coded, loads, seen, version

ADDRESS = AddressOf("/run")
EMPTY = Plan(0, 0)
SIZES = st.dictionaries(st.sampled_from([f"m{i}:1" for i in range(12)]), st.integers(0, 1000))


def wanted(
    name: str, size_bytes: int, replicas: int = 1, hosting: Hosting | None = None
) -> Desired:
    """Want an endpoint of the same name as its model, of a measured size."""
    spec = EndpointSpec(name, name, 1, replicas=replicas, hosting=hosting or Hosting())
    return Desired(spec, version(1, name), size_bytes=size_bytes)


def follow(previous: Plan, desired: list[Desired], workers: int, *, ready: bool = True) -> Plan:
    """Return the plan that comes of what is desired when all that the last one says is so."""
    items = placed(desired, previous, workers)
    seen_now = observed_of(previous, ready=ready)
    following = next_plan(items, seen_now, previous, ADDRESS, (), workers)
    return msgspec.structs.replace(following, number=previous.number + 1)


def observed_of(plan: Plan, *, ready: bool = True) -> Observed:
    """Return what is seen when all that a plan says is so."""
    states = {
        worker.id: {load.variant: VariantState(load.variant, "ready") for load in worker.loads}
        for worker in plan.workers
        if ready
    }
    return Observed(states, plan.number, successions(plan, []))


def hosts(plan: Plan) -> dict[str, list[str]]:
    """Return which shared workers have each version."""
    found: dict[str, list[str]] = {}
    for worker in plan.workers:
        for load in worker.loads if worker.kind == "shared" else ():
            found.setdefault(load.variant, []).append(worker.id)
    return found


def test_the_largest_go_first_to_where_least_is() -> None:
    """Sizes, not numbers, are evened out."""
    sizes = {"a": 100, "b": 10, "c": 60, "d": 50}
    assert homes(sizes, dict.fromkeys(sizes, 1), EMPTY, 2) == {"a": 0, "c": 1, "d": 1, "b": 0}
    assert set(homes(sizes, dict.fromkeys(sizes, 1), EMPTY, 1).values()) == {0}
    unknown = dict.fromkeys("abcd", 0)
    assert sorted(homes(unknown, dict.fromkeys("abcd", 1), EMPTY, 2).values()) == [0, 0, 1, 1]


@given(SIZES, st.integers(1, 5))
def test_no_worker_has_more_than_its_share_and_one_model(sizes: dict[str, int], count: int) -> None:
    """Placed at once, two workers differ by at most the largest model."""
    found = homes(sizes, dict.fromkeys(sizes, 1), EMPTY, count)
    assert found.keys() == sizes.keys()
    loaded = [0] * count
    for variant, home in found.items():
        loaded[home] += max(1, sizes[variant])
    assert max(loaded) - min(loaded) <= max([1, *sizes.values()])


@given(st.lists(st.tuples(SIZES, st.integers(1, 4)), min_size=1, max_size=6))
def test_nothing_moves_that_need_not(rounds: list[tuple[dict[str, int], int]]) -> None:
    """Deploys, undeploys and other sizes move nothing; fewer workers only what was on those.

    Nor does a control that knows only the plan before. Every version is on a worker that is there.
    """
    plan = EMPTY
    for sizes, count in rounds:
        before = hosts(plan)
        desired = [wanted(name.partition(":")[0], size) for name, size in sizes.items()]
        desired.sort(key=lambda item: item.spec.name)
        for _ in range(3):  # loaded, routed, what is not asked any more let go
            plan = follow(plan, desired, count)
        after = hosts(plan)
        assert after.keys() == sizes.keys()
        assert {name for names in after.values() for name in names} <= {
            f"shared-{index}" for index in range(count)
        }
        for variant, names in after.items():
            assert len(names) == 1
            old = before.get(variant, [])
            if old and int(old[0].rpartition("-")[2]) < count:
                assert names == old
        assert hosts(follow(plan, desired, count, ready=False)) == after


def test_a_successor_has_the_home_of_whom_it_replaces() -> None:
    """A worn worker's versions stay with its successor."""
    desired = [wanted("a", 5), wanted("b", 5)]
    plan = follow(EMPTY, desired, 2)
    workers = [
        WorkerPlan(f"{worker.id}.1" if worker.id == "shared-1" else worker.id, *rest)
        for worker in plan.workers
        for rest in [(worker.kind, worker.address, worker.loads)]
    ]
    plan = msgspec.structs.replace(plan, workers=tuple(workers))
    assert hosts(follow(plan, desired, 2)) == {"a:1": ["shared-0"], "b:1": ["shared-1.1"]}


def test_several_replicas_are_on_the_first_workers() -> None:
    """They are on as many as they need, and the others heed what they take there."""
    plan = follow(EMPTY, [wanted("a", 50, 2), wanted("b", 10), wanted("c", 10)], 3)
    assert hosts(plan) == {
        "a:1": ["shared-0", "shared-1"],
        "b:1": ["shared-2"],
        "c:1": ["shared-2"],
    }


@given(st.integers(2, 4), st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_replicas_that_come_and_go_leave_the_others_where_they_are(
    count: int, numbers: list[int]
) -> None:
    """With more replicas those that were stay, with fewer those that stay were there before."""
    others = [wanted("a", 9), wanted("b", 8)]
    plan = EMPTY
    before: set[str] = set()
    for number in [1, *numbers]:
        grown = msgspec.structs.replace(wanted("m", 1), replicas=number)
        for _ in range(3):
            plan = follow(plan, [*others, grown], count)
        after = set(hosts(plan)["m:1"])
        assert len(after) == number
        assert before <= after or after <= before
        before = after


def test_who_says_first_how_a_version_is_hosted_is_heeded() -> None:
    """Endpoints without a wish follow; of two wishes the first holds, for every endpoint."""
    own = Hosting("dedicated")
    wishes = [("m:1", Hosting()), ("m:1", own), ("m:1", Hosting(execution=Execution(3)))]
    assert agreed(wishes) == {"m:1": own}
    specs = [EndpointSpec(f"e{i}", "m", 1, hosting=wish) for i, (_, wish) in enumerate(wishes)]
    plan = follow(EMPTY, [Desired(spec, version(1)) for spec in specs], 1)
    assert loads(plan, "shared-0") == []
    assert loads(plan, "dedicated-m-1-0") == ["m:1"]


def test_a_model_can_have_its_own_worker_with_limits() -> None:
    """Workers of other limits are others; the old ones answer until the new ones can."""
    plan = follow(EMPTY, [wanted("a", 1)], 1)
    plan = follow(plan, [wanted("a", 1)], 1)
    assert plan.endpoints[0].variants[0].workers == ("shared-0",)
    limits = Limits("1", 300_000_000)
    own = Hosting("dedicated", Execution(2, 3), limits)
    plan = follow(plan, [wanted("a", 1, hosting=own)], 1)
    assert plan.endpoints[0].variants[0].workers == ("shared-0",)
    (new,) = [worker for worker in plan.workers if worker.kind == "dedicated"]
    assert (new.limits, new.threads) == (limits, 3)
    assert new.loads[0].execution == Execution(2, 3)
    plan = follow(plan, [wanted("a", 1, hosting=own)], 1)
    assert plan.endpoints[0].variants[0].workers == (new.id,)
    other = Hosting("dedicated", Execution(2, 3), Limits("2", 300_000_000))
    plan = follow(plan, [wanted("a", 1, hosting=other)], 1)
    names = [worker.id for worker in plan.workers if worker.kind == "dedicated"]
    assert len(set(names)) == 2
    kept = {worker.id: worker.limits for worker in plan.workers}
    assert kept[new.id] == limits


def test_limits_hold_in_quarantine_too() -> None:
    """What runs there has the same limits, one instance, and a worker that nobody shares."""
    limits = Limits(memory_bytes=300_000_000)
    items = [wanted("a", 1, hosting=Hosting(execution=Execution(4), limits=limits))]
    plan = follow(EMPTY, [*items, wanted("b", 1)], 1)
    alone = {w.id: w for w in plan.workers if w.kind == "quarantine"}
    assert alone.pop("quarantine-0").limits == Limits()
    (own,) = alone.values()
    assert own.limits == limits
    assert [load.execution for load in own.loads] == [Execution(1)]


def test_a_gpu_means_that_onnx_computes_there() -> None:
    """The CPU would be a surprise; code decides for itself."""
    on_gpu = Hosting(limits=Limits(gpu=1))
    spec = EndpointSpec("c", "c", 1, hosting=on_gpu)
    plan = follow(EMPTY, [wanted("a", 1, hosting=on_gpu), Desired(spec, coded(1, "c"))], 1)
    asked = {w.loads[0].variant: w.loads[0].execution for w in plan.workers if w.limits.gpu == 1}
    assert asked["a:1"].provider == "cuda"
    assert asked["c:1"].provider == "auto"


def test_a_failure_counts_for_what_was_tried() -> None:
    """An older attempt's failure is none of the present wish, and serving as before is not done."""
    (item,) = placed([wanted("m", 1, hosting=Hosting(execution=Execution(2)))], EMPTY)

    def state(name: str, code: str, execution: Execution | None) -> Observed:
        found = VariantState("m:1", name, code, "why", execution=execution)
        return msgspec.structs.replace(seen(), workers={"shared-0": {"m:1": found}})

    assert failure(item, state("failed", "load_failed", Execution())) is None
    assert failure(item, state("failed", "load_failed", Execution(2))) is not None
    assert failure(item, state("ready", "load_failed", Execution(2))) is not None
    assert failure(item, state("ready", "", Execution(2))) is None
    assert up_to_date_workers(item, state("ready", "", Execution())) == []
    assert up_to_date_workers(item, state("ready", "", Execution(2))) == ["shared-0"]
    assert up_to_date_workers(item, state("ready", "", None)) == ["shared-0"]


def test_pytorch_has_workers_of_its_own() -> None:
    """What its files hold counts as code, which never shares a process."""
    one = version(1, "a")
    manifest = msgspec.structs.replace(one.manifest, runtime="torch")
    torch = msgspec.structs.replace(one, manifest=manifest)
    assert has_own(torch, Hosting())
    assert runs_code(torch)
    assert not has_own(one, Hosting())


def test_copies_are_answered_in_the_background_until_somebody_waits() -> None:
    """That has a worker of its own, which is replaced, not changed, when requests are to come."""
    shadow = Arm(version(2), "shadow", sample=10_000, alone=True, background=True, replicas=1)
    item = msgspec.structs.replace(wanted("m", 1), arms=(shadow,))
    plan = follow(follow(EMPTY, [item], 1), [item], 1)
    (copies,) = [worker for worker in plan.workers if worker.background]
    assert [load.variant for load in copies.loads] == ["m:2"]
    own = Hosting("dedicated")
    other = Desired(EndpointSpec("b", "m", 2, hosting=own), version(2))
    plan = follow(plan, [item, other], 1)
    plan = follow(plan, [item, other], 1)
    routes = {e.name: e.variants[-1].workers for e in plan.endpoints}
    assert routes["b"] == routes["m"] != (copies.id,)
    (real,) = [worker for worker in plan.workers if worker.id in routes["b"]]
    assert not real.background
    old = {worker.id: worker for worker in plan.workers}.get(copies.id)
    assert old is None or old.background


def test_wishes_for_one_version_are_in_the_background_only_together() -> None:
    """Whoever asks first."""
    low, plain = Hosting("dedicated", background=True), Hosting()
    assert agreed([("m:1", low), ("m:1", low)])["m:1"].background
    assert not agreed([("m:1", low), ("m:1", plain)])["m:1"].background
    assert not agreed([("m:1", plain), ("m:1", low)])["m:1"].background


def test_nobody_waits_for_what_is_in_the_background() -> None:
    """A version that got copies there is loaded elsewhere before it gets requests."""
    shadow = Arm(version(1), "shadow", sample=10_000, alone=True, background=True, pinned=True)
    serving = Desired(EndpointSpec("m", "m", 2), version(2))
    shadowed = msgspec.structs.replace(serving, arms=(shadow,))
    plan = follow(follow(EMPTY, [shadowed], 1), [shadowed], 1)
    (slow,) = [worker.id for worker in plan.workers if worker.background]
    back = Desired(EndpointSpec("m", "m", 1), version(1), arms=(Arm(version(2), "previous"),))
    for _ in range(3):
        plan = follow(plan, [back], 1)
        for variant in plan.endpoints[0].variants:
            assert slow not in variant.workers
            assert variant.workers
    assert plan.endpoints[0].variants[0].id == "m:1"


def blue_green(step: int, replicas: int = 1) -> Desired:
    """Return what is wanted of an endpoint while a blue-green version gets copies."""
    versions = {"m:1": version(1), "m:2": version(2)}
    policy = check_policy(RolloutPolicy(strategy=BLUE_GREEN, sample=10_000))
    rollout = Rollout("m", 1, "m:1", "m:2", policy, "salt", 0, "me", step=step)
    wishes = Wishes(lambda reference: versions[str(reference)], {}, Settings())
    return wishes.of(EndpointSpec("m", "m", 1, replicas=replicas), rollout, None)


def test_copies_of_a_blue_green_version_take_no_turns_from_the_primary() -> None:
    """It has as many workers of its own as the endpoint, from the start, and they can stay."""
    for step in (PREPARING, 0):
        item = blue_green(step, replicas=2)
        plan = follow(follow(EMPTY, [item], 2), [item], 2)
        hosts = [w for w in plan.workers if w.kind == "dedicated"]
        assert [[load.variant for load in w.loads] for w in hosts] == [["m:2"]] * 2
        assert not any(w.background for w in hosts)
        assert not any(
            load.variant == "m:2" for w in plan.workers if w.kind == "shared" for load in w.loads
        )


def test_a_blue_green_version_answers_at_once_and_moves_later() -> None:
    """Promoted, it answers in the workers that had its copies until the usual ones have it."""
    copied = blue_green(0)
    plan = follow(follow(EMPTY, [copied], 1), [copied], 1)
    primary, shadow = plan.endpoints[0].variants
    assert (primary.workers, shadow.role) == (("shared-0",), "shadow")
    own = shadow.workers
    promoted = Desired(EndpointSpec("m", "m", 2), version(2), arms=(Arm(version(1), "previous"),))
    known = observed_of(plan)
    (item,) = placed([promoted], plan, 1)
    switched = next_plan([item], known, plan, ADDRESS, (), 1)
    assert (switched.endpoints[0].variants[0].id, switched.endpoints[0].variants[0].workers) == (
        "m:2",
        own,
    )
    for _ in range(3):
        switched = follow(switched, [promoted], 1)
    assert switched.endpoints[0].variants[0].workers == ("shared-0",)
    assert not any(worker.id in own for worker in switched.workers)
