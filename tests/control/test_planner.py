"""The planner never routes to what nobody can answer while something else can."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.artifact.manifest import FileEntry, Manifest
from salver.control.desired import Arm, Desired, Observed
from salver.control.hosts import asleep, ready_workers, successions
from salver.control.loads import AddressOf, policy_of
from salver.control.planner import next_plan, same
from salver.core.errors import UnsupportedFormat
from salver.core.signature import Signature, TensorSpec
from salver.core.steps import Steps
from salver.registry.records import EndpointSpec, VersionRecord
from salver.runtimes.table import create_batch, is_stream
from salver.wire.messages import FileRef, Plan, VariantState

ADDRESS = AddressOf("/run")
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))
EMPTY = Plan(0, 0)


def version(
    number: int, model: str = "m", *, pickled: bool = False, batch: int = 64
) -> VersionRecord:
    """Return one stored version."""
    manifest = Manifest(
        "onnx",
        (FileEntry("m.onnx", f"{number:064x}", 3),),
        SIGNATURE,
        max_batch_size=batch,
        trust_pickle=pickled,
    )
    return VersionRecord(model, number, manifest.digest, manifest, 0, "", {})


def coded(number: int, model: str) -> VersionRecord:
    """Return one stored version that is code."""
    record = version(number, model)
    manifest = msgspec.structs.replace(record.manifest, runtime="python", trust_code=True)
    return msgspec.structs.replace(record, manifest=manifest)


def want(number: int, **spec: object) -> Desired:
    """Want endpoint ``e`` to serve a version."""
    base = EndpointSpec("e", "m", number)
    return Desired(msgspec.structs.replace(base, **spec), version(number))


def seen(acknowledged: int | None = None, **workers: dict[str, str]) -> Observed:
    """Return what was observed: for each worker (underscores for dashes) its variants' states."""
    return Observed(
        {
            name.replace("_", "-"): {
                variant: VariantState(variant, state, "load_failed", "broken file")
                for variant, state in states.items()
            }
            for name, states in workers.items()
        },
        acknowledged,
    )


def routed(plan: Plan) -> list[str]:
    """Return the variants of endpoint ``e``."""
    return [variant.id for variant in plan.endpoints[0].variants] if plan.endpoints else []


def loads(plan: Plan, worker: str) -> list[str]:
    """Return what a worker shall host."""
    for item in plan.workers:
        if item.id == worker:
            return [load.variant for load in item.loads]
    return []


def test_a_new_endpoint_is_loaded_first_and_routed_when_ready() -> None:
    """Before the worker reports it ready, the endpoint has no variant and says why."""
    plan = next_plan([want(1)], seen(shared_0={}), EMPTY, ADDRESS)
    assert routed(plan) == []
    assert "loading" in plan.endpoints[0].reason
    assert loads(plan, "shared-0") == ["m:1"]
    assert loads(plan, "quarantine-0") == ["m:1"]
    assert all(load.lazy for load in plan.workers[0].loads)
    plan = next_plan([want(1)], seen(shared_0={"m:1": "ready"}), plan, ADDRESS)
    assert routed(plan) == ["m:1"]
    assert plan.endpoints[0].variants[0].weight == 10_000


def steady(number: int = 1, **spec: object) -> Plan:
    """Return the plan that serves a version, numbered 5."""
    observed = seen(shared_0={f"m:{number}": "ready"}, shared_1={f"m:{number}": "ready"})
    plan = next_plan([want(number, **spec)], observed, EMPTY, ADDRESS)
    return msgspec.structs.replace(plan, number=5)


class LoadOfVersion2(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """What a worker of version 2 understands of a ``Load``, as far as it needs it here."""

    variant: str
    digest: str
    runtime: str
    files: tuple[FileRef, ...]


def test_a_worker_that_knows_no_steps_refuses_a_version_with_steps() -> None:
    """It would read all but the steps, and answer with the bare model."""
    steps = Steps(after=({"step": "softmax", "tensor": "y"},))
    wanted = want(1)
    record = wanted.version
    assert record is not None
    for runtime in ("onnx", "python-stream"):
        manifest = msgspec.structs.replace(record.manifest, runtime=runtime, steps=steps)
        with_steps = msgspec.structs.replace(
            wanted, version=msgspec.structs.replace(record, manifest=manifest)
        )
        plan = next_plan([with_steps], seen(shared_0={}), EMPTY, ADDRESS)
        loads_of_it = [load for worker in plan.workers for load in worker.loads]
        assert loads_of_it
        for load in loads_of_it:
            old = msgspec.msgpack.decode(msgspec.msgpack.encode(load), type=LoadOfVersion2)
            with pytest.raises(UnsupportedFormat, match="unknown runtime 'stepped:"):
                create_batch(old.runtime)
            assert is_stream(load.runtime) is (runtime == "python-stream")


def test_an_update_switches_when_ready_and_lets_go_when_acknowledged() -> None:
    """Old stays routed while new loads, and loaded until every gateway routes to new."""
    plan = next_plan([want(2)], seen(5, shared_0={"m:1": "ready"}), steady(), ADDRESS)
    assert routed(plan) == ["m:1"]
    assert set(loads(plan, "shared-0")) == {"m:1", "m:2"}
    both = {"m:1": "ready", "m:2": "ready"}
    switched = next_plan([want(2)], seen(5, shared_0=both), plan, ADDRESS)
    assert routed(switched) == ["m:2"]
    assert set(loads(switched, "shared-0")) == {"m:1", "m:2"}
    switched = msgspec.structs.replace(switched, number=7)
    waiting = next_plan([want(2)], seen(6, shared_0=both), switched, ADDRESS)
    assert set(loads(waiting, "shared-0")) == {"m:1", "m:2"}
    waiting = next_plan([want(2)], seen(None, shared_0=both), switched, ADDRESS)
    assert set(loads(waiting, "shared-0")) == {"m:1", "m:2"}
    done = next_plan([want(2)], seen(7, shared_0=both), switched, ADDRESS)
    assert loads(done, "shared-0") == ["m:2"]


def test_a_failed_load_keeps_the_old_version() -> None:
    """The reason is told, and what served goes on serving."""
    observed = seen(5, shared_0={"m:1": "ready", "m:2": "failed"})
    plan = next_plan([want(2)], observed, steady(), ADDRESS)
    assert routed(plan) == ["m:1"]
    assert plan.endpoints[0].reason == "broken file"


def test_a_restart_of_control_disturbs_nothing() -> None:
    """With nothing observed yet, the plan in force stays as it is."""
    assert same(next_plan([want(1)], seen(None), steady(), ADDRESS), steady())


def test_an_update_waits_for_all_connected_replicas() -> None:
    """With two replicas the switch waits for both, or for the one that is left."""
    plan = steady(replicas=2)
    half = seen(5, shared_0={"m:2": "ready"}, shared_1={"m:2": "loading"})
    assert routed(next_plan([want(2, replicas=2)], half, plan, ADDRESS)) == ["m:1"]
    alone = seen(5, shared_0={"m:2": "ready"})
    assert routed(next_plan([want(2, replicas=2)], alone, plan, ADDRESS)) == ["m:2"]


def test_trusted_pickles_get_workers_of_their_own() -> None:
    """Code never shares a process with other models."""
    item = Desired(EndpointSpec("e", "m", 1, replicas=2), version(1, pickled=True))
    plan = next_plan([item], seen(), EMPTY, ADDRESS)
    assert loads(plan, "shared-0") == []
    assert loads(plan, "dedicated-m-1-0") == loads(plan, "dedicated-m-1-1") == ["m:1"]
    kinds = {worker.id: worker.kind for worker in plan.workers}
    assert kinds["dedicated-m-1-0"] == "dedicated"


@pytest.mark.parametrize("name", ["m", "n" * 128])
def test_code_shares_no_process_not_even_in_quarantine(name: str) -> None:
    """Each version of code has workers and a quarantine of its own, whose sockets have room."""
    items = [
        Desired(EndpointSpec(f"e{number}", name, number), coded(number, name)) for number in (1, 2)
    ]
    items.append(Desired(EndpointSpec("plain", "p", 1), version(1, "p")))
    plan = next_plan(items, seen(), EMPTY, ADDRESS)
    hosted = {worker.id: [load.variant for load in worker.loads] for worker in plan.workers}
    assert hosted.pop("shared-0") == hosted.pop("quarantine-0") == ["p:1"]
    assert sorted(hosted.values()) == [[f"{name}:1"]] * 2 + [[f"{name}:2"]] * 2
    kinds = [worker.kind for worker in plan.workers if worker.id in hosted]
    assert sorted(kinds) == ["dedicated"] * 2 + ["quarantine"] * 2
    assert all(len(worker.id) < 60 for worker in plan.workers)
    assert all(load.trust_code for one in plan.workers if one.id in hosted for load in one.loads)


def test_no_name_is_another_models_shortened_one() -> None:
    """A model that is named as a longer one's workers are shares no process with it."""
    names = ["n" * 128]
    for _ in range(3):
        items = [Desired(EndpointSpec(name, name, 1), coded(1, name)) for name in names]
        plan = next_plan(items, seen(), EMPTY, ADDRESS)
        own = [worker for worker in plan.workers if worker.kind == "dedicated"]
        assert [len(worker.loads) for worker in own] == [1] * len(names)
        names += [worker.id.removeprefix("dedicated-").removesuffix("-1-0") for worker in own]
        names = [*dict.fromkeys(names)]
    assert len(names) > 2


def test_batching_that_a_push_switched_off_stays_off() -> None:
    """An endpoint cannot ask for batches of a version that must not be batched."""
    item = Desired(EndpointSpec("e", "m", 1, max_batch_size=32), version(1, batch=1))
    plan = next_plan([item], seen(), EMPTY, ADDRESS)
    for worker in plan.workers:
        for load in worker.loads:
            assert load.policy.max_batch_size == 1


@pytest.mark.parametrize(
    ("asked", "most", "expected"),
    [(None, 16, 16), (64, 16, 16), (8, 16, 8), (128, 0, 128), (128, 100, 100), (None, 100, 64)],
)
def test_no_batch_has_more_rows_than_the_model_takes(
    asked: int | None, most: int, expected: int
) -> None:
    """An endpoint may ask for more rows than the default, and for no more than a version takes."""
    record = version(1, batch=min(64, most or 64))
    manifest = msgspec.structs.replace(record.manifest, most_rows=most)
    stored = msgspec.structs.replace(record, manifest=manifest)
    item = Desired(EndpointSpec("e", "m", 1, max_batch_size=asked), stored)
    assert policy_of(item).max_batch_size == expected


def test_a_removed_endpoint_is_let_go_in_two_steps() -> None:
    """First nobody is routed to it, then its model goes."""
    plan = next_plan([], seen(5, shared_0={"m:1": "ready"}), steady(), ADDRESS)
    assert plan.endpoints == ()
    assert loads(plan, "shared-0") == ["m:1"]
    plan = msgspec.structs.replace(plan, number=6)
    gone = next_plan([], seen(6, shared_0={"m:1": "ready"}), plan, ADDRESS)
    assert loads(gone, "shared-0") == []


def test_an_endpoint_that_cannot_be_resolved_keeps_serving() -> None:
    """A deleted alias is told as the reason; what served goes on."""
    item = Desired(EndpointSpec("e", "m", alias="gone"), None, "no alias")
    plan = next_plan([item], seen(5), steady(), ADDRESS)
    assert routed(plan) == ["m:1"]
    assert plan.endpoints[0].reason == "no alias"


def test_gateways_are_told_what_could_be_loaded() -> None:
    """Models that no endpoint is named after are in the plan, and a change there is a new plan."""
    plan = next_plan([want(1)], seen(), EMPTY, ADDRESS, ["d", "e", "f"])
    assert plan.unloaded == ("d", "f")
    assert not same(plan, next_plan([want(1)], seen(), EMPTY, ADDRESS, ["d", "e"]))
    assert next_plan([want(1)], seen(), EMPTY, ADDRESS).unloaded == ()


STATES = st.sampled_from(["loading", "ready", "failed"])


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.integers(1, 2),
            st.dictionaries(
                st.sampled_from(["shared-0", "shared-1"]),
                st.dictionaries(st.sampled_from(["m:1", "m:2", "m:3"]), STATES),
            ),
            st.none() | st.integers(0, 12),
        ),
        max_size=12,
    )
)
def test_whatever_happens_a_routed_version_is_hosted(
    steps: list[tuple[int, int, dict[str, dict[str, str]], int | None]],
) -> None:
    """In every plan weights add up, routed versions are loaded, and nothing is loaded twice."""
    plan = EMPTY
    for number, (wanted, replicas, workers, acknowledged) in enumerate(steps, start=1):
        observed = Observed(
            {
                worker: {v: VariantState(v, state) for v, state in states.items()}
                for worker, states in workers.items()
            },
            acknowledged,
        )
        before = routed(plan)
        desired = [want(wanted, replicas=replicas)]
        following = next_plan(desired, observed, plan, ADDRESS)
        for endpoint in following.endpoints:
            assert sum(v.weight for v in endpoint.variants) in (0, 10_000)
            for variant in endpoint.variants:
                assert any(variant.id in loads(following, worker) for worker in variant.workers)
        assert not before or routed(following)
        if not same(following, plan):
            plan = msgspec.structs.replace(following, number=number)
        for worker in plan.workers:
            names = [load.variant for load in worker.loads]
            assert len(names) == len(set(names))


def with_budget(number: int = 1) -> tuple[Desired, Plan]:
    """Return an endpoint whose version is out of memory, and the plan that serves it."""
    item = msgspec.structs.replace(want(number, pinned=True), size_hint_bytes=7)
    plan = next_plan([item], seen(shared_0={"m:1": "evicted"}), EMPTY, ADDRESS)
    return item, msgspec.structs.replace(plan, number=5)


def test_what_is_out_of_memory_can_be_routed_to() -> None:
    """A version that comes back for the next request is as good as one that is there."""
    _, plan = with_budget()
    assert routed(plan) == ["m:1"]
    (load,) = [x for w in plan.workers if w.id == "shared-0" for x in w.loads]
    assert (load.pinned, load.size_hint_bytes) == (True, 7)


def replaced(plan: Plan, worn: list[str], acknowledged: int, **workers: dict[str, str]) -> Plan:
    """Return the plan that follows one of whose workers some are worn."""
    observed = seen(acknowledged, **workers)
    observed = msgspec.structs.replace(observed, successions=successions(plan, worn))
    following = next_plan([with_budget()[0]], observed, plan, ADDRESS)
    return msgspec.structs.replace(following, number=plan.number + 1)


def test_a_worn_worker_gets_a_successor_before_it_goes() -> None:
    """The successor is loaded, then routed to; when all know that, the old one goes."""
    _, plan = with_budget()
    old = {"m:1": "evicted"}
    first = replaced(plan, ["shared-0"], 5, shared_0=old)
    assert first.endpoints[0].variants[0].workers == ("shared-0",)
    assert loads(first, "shared-0") == loads(first, "shared-0.1") == ["m:1"]
    again = replaced(first, ["shared-0"], 6, shared_0=old)
    assert again.endpoints == first.endpoints
    assert again.workers == first.workers
    new = {"shared_0": old, "shared_0.1": old}
    second = replaced(again, ["shared-0"], 7, **new)
    assert second.endpoints[0].variants[0].workers == ("shared-0.1",)
    assert loads(second, "shared-0") == ["m:1"]
    unheard = replaced(second, ["shared-0"], 7, **new)
    assert loads(unheard, "shared-0") == ["m:1"]
    third = replaced(unheard, ["shared-0"], 9, **new)
    assert [worker.id for worker in third.workers] == ["quarantine-0", "shared-0.1"]
    assert third.endpoints == second.endpoints
    assert successions(third, []) == {"shared-0": 1}
    assert successions(third, ["shared-0.1"]) == {"shared-0": 2}


def test_fewer_replicas_let_go_of_a_worker() -> None:
    """Who gets no requests any more is let go, once every gateway knows."""
    ready = {"m:1": "ready"}
    both = seen(5, shared_0=ready, shared_1=ready)
    plan = next_plan([want(1, replicas=2)], both, EMPTY, ADDRESS)
    plan = next_plan([want(1)], both, msgspec.structs.replace(plan, number=5), ADDRESS)
    assert plan.endpoints[0].variants[0].workers == ("shared-0",)
    assert loads(plan, "shared-1") == ["m:1"]
    done = next_plan([want(1)], both, plan, ADDRESS)
    assert loads(done, "shared-1") == []


def test_a_new_replica_is_asked_when_it_is_ready() -> None:
    """With one replica more, requests go on to the old one alone until the new one can answer."""
    ready = {"m:1": "ready"}
    more = want(1, replicas=2)
    plan = next_plan([more], seen(5, shared_0=ready), steady(), ADDRESS)
    assert plan.endpoints[0].variants[0].workers == ("shared-0",)
    plan = next_plan([more], seen(5, shared_0=ready, shared_1=ready), plan, ADDRESS)
    assert plan.endpoints[0].variants[0].workers == ("shared-0", "shared-1")


def with_arms(*arms: tuple[int, str, int], primary: int = 1, **spec: object) -> Desired:
    """Want a primary version and others beside it: version, role, weight."""
    wanted = tuple(Arm(version(number), role, weight) for number, role, weight in arms)
    return msgspec.structs.replace(want(primary, **spec), arms=wanted, salt="r1")


def shares(plan: Plan) -> list[tuple[str, str, int]]:
    """Return the variants of endpoint ``e``, their roles and weights."""
    return [(each.id, each.role, each.weight) for each in plan.endpoints[0].variants]


BOTH = {"m:1": "ready", "m:2": "ready"}


def test_an_arm_gets_traffic_when_it_can_answer() -> None:
    """Until then the primary version has all of it, and the arm is loaded."""
    wanted = with_arms((2, "canary", 500))
    plan = next_plan([wanted], seen(5, shared_0={"m:1": "ready"}), steady(), ADDRESS)
    assert shares(plan) == [("m:1", "primary", 10_000)]
    assert set(loads(plan, "shared-0")) == {"m:1", "m:2"}
    plan = next_plan([wanted], seen(5, shared_0=BOTH), plan, ADDRESS)
    assert shares(plan) == [("m:1", "primary", 9_500), ("m:2", "canary", 500)]
    assert plan.endpoints[0].salt == "r1"


def test_a_change_of_shares_begins_an_epoch_for_all() -> None:
    """What is compared was counted while nothing changed, under a number that is never reused."""
    observed = seen(5, shared_0=BOTH)
    first = next_plan([with_arms((2, "canary", 500))], observed, steady(), ADDRESS)
    assert {each.weight_epoch for each in first.endpoints[0].variants} == {6}
    first = msgspec.structs.replace(first, number=8)
    again = next_plan([with_arms((2, "canary", 500))], observed, first, ADDRESS)
    assert same(again, first)
    counted = msgspec.structs.replace(with_arms((2, "canary", 500)), evidence=b"columns")
    for changed in (with_arms((2, "canary", 2_500)), counted):
        plan = next_plan([changed], observed, first, ADDRESS)
        assert {each.weight_epoch for each in plan.endpoints[0].variants} == {9}
        assert plan.endpoints[0].evidence == changed.evidence


def test_an_endpoint_that_was_made_anew_has_a_new_epoch() -> None:
    """Its counts are not those of the one that had the name before."""
    observed = seen(5, shared_0=BOTH)
    gone = next_plan([], observed, steady(), ADDRESS)
    anew = next_plan([want(1)], observed, msgspec.structs.replace(gone, number=9), ADDRESS)
    assert anew.endpoints[0].variants[0].weight_epoch == 10


def test_an_arm_that_becomes_primary_is_routed_at_once() -> None:
    """Promotion, and going back while the old version is kept, wait for nothing."""
    observed = seen(5, shared_0=BOTH)
    canary = next_plan([with_arms((2, "canary", 500))], observed, steady(), ADDRESS)
    nothing_seen = seen(5)
    promoted = next_plan([with_arms((1, "previous", 0), primary=2)], nothing_seen, canary, ADDRESS)
    assert shares(promoted) == [("m:2", "primary", 10_000), ("m:1", "previous", 0)]
    back = next_plan([with_arms((2, "previous", 0))], nothing_seen, promoted, ADDRESS)
    assert shares(back) == [("m:1", "primary", 10_000), ("m:2", "previous", 0)]
    assert "m:2" in loads(back, "shared-0")


def test_an_arm_that_is_not_wanted_gets_nothing_whatever_the_primary_does() -> None:
    """An aborted rollout ends at once, also while another version is loading."""
    observed = seen(5, shared_0=BOTH)
    canary = next_plan([with_arms((2, "canary", 500))], observed, steady(), ADDRESS)
    aborted = next_plan([want(1)], observed, canary, ADDRESS)
    assert shares(aborted) == [("m:1", "primary", 10_000)]
    third = next_plan([want(3)], observed, canary, ADDRESS)
    assert shares(third) == [("m:1", "primary", 10_000)]


@given(
    st.lists(st.tuples(st.integers(2, 6), st.integers(0, 12_000)), max_size=4),
    st.sets(st.integers(1, 6)),
)
def test_weights_always_add_up(arms: list[tuple[int, int]], ready: set[int]) -> None:
    """Whatever is wanted and ready, all traffic is given away, and to nobody twice."""
    wanted = with_arms(*((number, "arm", weight) for number, weight in dict(arms).items()))
    observed = seen(5, shared_0={f"m:{number}": "ready" for number in ready})
    plan = next_plan([wanted], observed, steady(), ADDRESS)
    assert sum(weight for _, _, weight in shares(plan)) == 10_000
    assert all(weight >= 0 for _, _, weight in shares(plan))
    assert len({name for name, _, _ in shares(plan)}) == len(shares(plan))
    assert {name for name, _, _ in shares(plan)[1:]} <= {f"m:{number}" for number in ready}


def idle(number: int, model: str = "m", *, idle_s: float = 60.0) -> Desired:
    """Want an endpoint of a coded version that leaves while nobody asks."""
    spec = EndpointSpec(f"e-{model}-{idle_s:g}", model, number, min_replicas=0)
    return Desired(spec, coded(number, model), idle_s=idle_s)


def test_only_workers_of_their_own_run_on_demand() -> None:
    """A version's own worker and quarantine run on demand, those that it shares run always."""
    shared = msgspec.structs.replace(want(1), idle_s=60.0)
    plan = next_plan([idle(1, "own"), shared], seen(), EMPTY, ADDRESS)
    on_demand = {worker.id for worker in plan.workers if worker.on_demand}
    assert on_demand == {"dedicated-own-1-0", "quarantine-own-1"}
    assert {load.idle_s for worker in plan.workers for load in worker.loads} == {60.0}
    always = next_plan([idle(1, "own", idle_s=0.0)], seen(), plan, ADDRESS)
    assert not any(worker.on_demand for worker in always.workers if "own" in worker.id)


def test_a_version_is_loaded_once_before_it_may_sleep() -> None:
    """What never was ready is not routed; once it was it stays so while no process runs."""
    first = next_plan([idle(1)], seen(), EMPTY, ADDRESS)
    assert first.endpoints[0].variants == ()
    assert asleep(first, ()) == frozenset()
    ready = seen(dedicated_m_1_0={"m:1": "ready"})
    second = next_plan([idle(1)], ready, first, ADDRESS)
    assert second.endpoints[0].variants[0].workers == ("dedicated-m-1-0",)
    sleeping = msgspec.structs.replace(seen(), asleep=asleep(second, ()))
    assert ready_workers(idle(1), sleeping) == ["dedicated-m-1-0"]
    assert asleep(second, ("dedicated-m-1-0",)) == {("quarantine-m-1", "m:1")}
    third = next_plan([idle(1)], sleeping, second, ADDRESS)
    assert same(second, third)


def test_a_version_stays_where_one_of_its_endpoints_wants_that() -> None:
    """With two endpoints the longer idle time holds, and none if one never wants it to leave."""
    longer = next_plan([idle(1, idle_s=5.0), idle(1, idle_s=9.0)], seen(), EMPTY, ADDRESS)
    stays = [
        next_plan([idle(1, idle_s=one), idle(1, idle_s=other)], seen(), EMPTY, ADDRESS)
        for one, other in ((5.0, 0.0), (0.0, 5.0))
    ]
    for plan, idle_s in ((longer, 9.0), (stays[0], 0.0), (stays[1], 0.0)):
        loads = [load for worker in plan.workers for load in worker.loads if not load.lazy]
        assert [load.idle_s for load in loads] == [idle_s]


def test_a_version_that_waits_is_loaded_and_hidden() -> None:
    """Before its gates are passed not even a caller who names it gets it; it is kept in memory."""
    observed = seen(5, shared_0={"m:1": "ready", "m:2": "ready"})
    waiting = msgspec.structs.replace(
        want(1), arms=(Arm(version(2), "waiting", weight=500, pinned=True),)
    )
    plan = next_plan([waiting], observed, steady(), ADDRESS)
    assert [(each.id, each.weight) for each in plan.endpoints[0].variants] == [("m:1", 10_000)]
    (worker,) = [each for each in plan.workers if each.id == "shared-0"]
    assert {load.variant: load.pinned for load in worker.loads} == {"m:1": False, "m:2": True}
