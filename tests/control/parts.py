"""The parts of control that change endpoints, on a database, without the other processes."""

import random
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from salver.artifact.manifest import FileEntry, Manifest
from salver.control.database import DatabaseThread
from salver.control.deploy import Deployer
from salver.control.hub import Hub
from salver.control.reconcile import Reconciler
from salver.control.rollouts.commands import Rollouts
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.experiments import Experiments
from salver.control.rollouts.follower import AliasFollower
from salver.control.rollouts.gates import Gates
from salver.control.rollouts.journal import line_of, record_of
from salver.control.rollouts.memory import Memory
from salver.control.rollouts.placing import Placing
from salver.control.rollouts.runner import Runner, Stores
from salver.control.rollouts.sides import SideParts, Sides
from salver.control.webhooks.attempt import FAILED, Attempt, Send
from salver.control.webhooks.deliverer import Deliverer
from salver.core.clock import ManualClock
from salver.core.names import ModelReference
from salver.core.settings import Settings
from salver.core.signature import Signature
from salver.observe.merge import Merger, Totals
from salver.registry.approvals import ApprovalStore
from salver.registry.catalog import Catalog
from salver.registry.database import Database
from salver.registry.feedback import FeedbackStore
from salver.registry.lease import Lease
from salver.registry.records import Delivery, EndpointSpec
from salver.registry.rollouts import RolloutStore
from salver.registry.sides import SideStore
from salver.registry.state import StateStore
from salver.registry.webhooks import DeliveryStore
from salver.rollout.machine import Rollout, begun
from salver.wire.messages import EndpointPlan, Plan, VariantPlan


class Control(NamedTuple):
    """One control's parts; ``thread`` is stopped by whoever made it."""

    database: Database
    lease: Lease
    catalog: Catalog
    state: StateStore
    store: RolloutStore
    sides: SideStore
    thread: DatabaseThread
    reconciler: Reconciler
    placing: Placing
    books: EvidenceBooks
    runner: Runner
    rollouts: Rollouts
    companions: Sides
    follower: AliasFollower
    experiments: Experiments
    deliveries: DeliveryStore
    deliverer: Deliverer

    def serve(
        self,
        *variants: VariantPlan,
        number: int,
        salt: str = "",
        evidence: bytes = b"",
        floor: int = 0,
    ) -> None:
        """Let the plan say that endpoint ``e`` is answered by these."""
        endpoint = EndpointPlan("e", variants, salt=salt, evidence=evidence, floor=floor)
        self.reconciler.plan = Plan(number, 0, (endpoint,))

    def begin(self, rollout: Rollout) -> Rollout:
        """Store a rollout, which is as far as it says, and return it with its number."""
        stored: list[Rollout] = []

        def make(number: int) -> tuple[bytes, bytes]:
            stored.append(msgspec.structs.replace(rollout, number=number))
            return record_of(stored[0]).body, line_of(begun(stored[0]))

        self.store.begin(rollout.endpoint, make)
        return stored[0]


async def nobody(_item: Delivery) -> Attempt:
    """Answer nothing."""
    return Attempt(FAILED, reason="nobody is there")


def control(
    folder: Path,
    holder: str,
    clock: ManualClock,
    send: Send = nobody,
    settings: Settings | None = None,
) -> Control:
    """Return a control with a connection of its own, in charge if no other is."""
    database = Database(f"sqlite:///{folder / 'salver.db'}")
    database.provision()
    lease, thread = Lease(database, holder, clock), DatabaseThread()
    settings = settings or Settings()
    lease.renew()
    catalog, state = Catalog(database, clock), StateStore(database, clock)
    store, sides = RolloutStore(database, lease, clock), SideStore(database, lease)
    reconciler = Reconciler(folder, catalog, state, thread, settings, clock, store, sides, lease)
    hub = Hub("", holder, clock, Merger(Totals({}, {})), reconciler.wake)
    memory = Memory(catalog, settings.engine, reconciler.wanted, lambda: reconciler.plan, hub.bases)
    gates = Gates(catalog, store, sides, ApprovalStore(database, lease, clock), memory)
    placing = Placing(catalog, state, store, gates, 60.0)
    deployer = Deployer(reconciler, hub, catalog, state, thread, placing, "")
    deliveries = DeliveryStore(database, lease, clock, 100)
    stores = Stores(store, sides, state, FeedbackStore(database), deliveries, catalog, thread)
    deliverer = Deliverer(deliveries, thread, send, hub.merger.count, clock, random.Random(1))
    books = EvidenceBooks()
    runner = Runner(stores, reconciler, hub, books, deliverer, clock)
    rollouts = Rollouts(stores, catalog, gates, runner, reconciler, deployer, clock)
    parts = SideParts(sides, state, stores.reported, thread)
    companions = Sides(parts, catalog, gates, reconciler, clock)
    follower = AliasFollower(rollouts, catalog, state, thread, reconciler)
    experiments = Experiments(parts, gates, reconciler, clock, np.random.default_rng(1))
    return Control(
        database,
        lease,
        catalog,
        state,
        store,
        sides,
        thread,
        reconciler,
        placing,
        books,
        runner,
        rollouts,
        companions,
        follower,
        experiments,
        deliveries,
        deliverer,
    )


def variant(name: str, role: str = "primary", weight: int = 10_000, epoch: int = 1) -> VariantPlan:
    """Return a version, ``MODEL:VERSION``, in a plan."""
    model, _, number = name.rpartition(":")
    return VariantPlan(
        name, role, model, number, "", "onnx", weight, epoch, Signature((), ()), ("shared-0",)
    )


def push(parts: Control, model: str, versions: int) -> None:
    """Store versions of a model."""
    for number in range(1, versions + 1):
        files = (FileEntry("model.onnx", f"{number:064x}", 1),)
        parts.catalog.create_version(model, Manifest("onnx", files, Signature((), ())), "alice", {})


def deploy_first(parts: Control, versions: int) -> None:
    """Store versions of model ``m``, and let endpoint ``e`` want the first."""
    push(parts, "m", versions)
    first = parts.catalog.resolve(ModelReference("m", 1))
    parts.placing.put(EndpointSpec("e", "m", 1), first, (), force=False)
