"""The worker process: follows the plan, hosts versions, answers gateways."""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from salver.core.clock import Clock
from salver.core.errors import LoadFailed, ResourceUnavailable, SalverError
from salver.core.hosting import Limits
from salver.core.settings import Settings
from salver.engine.ledger import clear
from salver.engine.materialize import remove
from salver.engine.worker.attempts import Attempts
from salver.engine.worker.budget import budget_of
from salver.engine.worker.budgets import Budgets
from salver.engine.worker.host import BatchHost
from salver.engine.worker.life import Life
from salver.engine.worker.limits import OwnLimits, step_back
from salver.engine.worker.link import GatewayLink
from salver.engine.worker.loader import Loader
from salver.engine.worker.loading import Loading
from salver.engine.worker.prints import capture_prints
from salver.engine.worker.residency import UNBOUNDED_BYTES, Residency
from salver.engine.worker.scarcity import Scarcity
from salver.engine.worker.shelf import Shelf
from salver.engine.worker.stream import StreamHost
from salver.engine.worker.turn import Turn
from salver.observe.cgroup import cgroup_limit_bytes
from salver.observe.gpu import gpu_count
from salver.observe.logs import get_logger
from salver.observe.memory import resident_bytes
from salver.observe.meter import Meter
from salver.observe.pressure import UNLOAD
from salver.runtimes.table import is_stream
from salver.wire.address import UnixAddress, parse_address
from salver.wire.connection import Connection
from salver.wire.follower import PlanFollower
from salver.wire.messages import (
    PROTOCOL_VERSION,
    Drain,
    Hello,
    Load,
    Plan,
    Snapshot,
    WorkerPlan,
    routes,
)
from salver.wire.transport import LinkOptions, Listener, listen

log = get_logger(__name__)

_IDLE_CHECK_S = 1.0
_BACK_TIMES = 25
_DRAIN_POLL_S = 0.01

_LEAVING = "leaving"
_QUARANTINE, _SHARED, _DEDICATED = "quarantine", "shared", "dedicated"

AnyHost = BatchHost | StreamHost
Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who this worker is and where it listens.

    ``door`` listens there already, if the supervisor keeps it open; ``woken_ns`` is when somebody
    connected to it (monotonic), 0 if nobody did. ``last_end`` says how its last process ended.
    """

    id: str
    incarnation: str
    address: str
    home: Path
    token: str = ""
    door: socket.socket | None = None
    woken_ns: int = 0
    last_end: str = ""


class Worker:
    """Component of one worker process.

    A worker that the plan calls a quarantine does one thing at a time over all its versions. One
    that is on demand calls ``unneeded`` when nobody has asked it for long, and so does one that has
    spent its memory limit; ``leave`` is due then.
    """

    def __init__(
        self,
        identity: WorkerIdentity,
        settings: Settings,
        loader: Loader,
        clock: Clock,
        links: LinkOptions,
        unneeded: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._settings = settings
        self._loader = loader
        self._clock = clock
        self._link_options = links
        self._unneeded = unneeded
        self._on_demand = False
        self._routed: frozenset[str] = frozenset()
        self._meter = Meter()
        self._hosts: dict[str, AnyHost] = {}
        self._retiring: list[AnyHost] = []
        self._turn: Turn | None = None
        self._kind = ""
        self._runs_code = False
        run = identity.home / "run"
        self._own_limits = OwnLimits(run, identity.id)
        engine, apart = settings.engine, loader.apart
        self._attempts = Attempts(run, identity.id, identity.last_end, engine, apart)
        self._life = Life(run, identity.id, engine, clock)
        self._limits: Limits | None = None
        self._steps_back = self._is_back = False
        self._unlimited: SalverError | None = None
        self._shelf: Shelf | None = None
        self._links: set[GatewayLink] = set()
        self._snapshots = 0
        self._state = "starting"
        self._worn = False
        self._listener: Listener | None = None
        self._follower: PlanFollower | None = None
        self._scarcity = Scarcity(
            self._hosts.values, settings.limits, clock, self._meter, identity.id
        )
        self._housekeeping: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen, and load what the plan says."""
        identity = self._identity
        self._loader.clear()
        clear(identity.home / "run", identity.id)
        self._life.start()
        self._attempts.start()
        hello = Hello(PROTOCOL_VERSION, "worker", identity.id, identity.incarnation, identity.token)
        self._listener = await listen(
            identity.address, hello, self._accept, self._link_options, identity.door
        )
        self._state = "ready"
        run = identity.home / "run"
        self._follower = PlanFollower(
            run / "plan.msgpack",
            f"unix:{run / 'control.sock'}",
            hello,
            self.apply,
            self.snapshot,
            self._settings.control.snapshot_interval_s,
        )
        await self._follower.start()
        keeping, watching = self._keep_house(), self._scarcity.guard.watch()
        self._housekeeping = [asyncio.create_task(keeping), asyncio.create_task(watching)]

    async def leave(self, timeout_s: float) -> None:
        """Have every gateway close its link, and answer what each still sent before that.

        Who connects from now on waits for the next process.
        """
        self._state = _LEAVING
        if self._listener is not None:
            await self._listener.close()
        for link in list(self._links):
            link.connection.send(Drain("idle"))
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        while self._links:
            is_late = self._clock.monotonic_ns() > deadline_ns
            if is_late and not any(link.open_jobs for link in self._links):
                break
            await asyncio.sleep(_DRAIN_POLL_S)

    async def drain(self, timeout_s: float) -> None:
        """Accept no new links, and finish what was accepted."""
        self._state = "draining"
        if self._listener is not None:
            await self._listener.close()
        for host in self._hosts.values():
            host.retire()
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        while any(link.open_jobs for link in self._links):
            if self._clock.monotonic_ns() > deadline_ns:
                log.warning("drain_timed_out", links=len(self._links))
                break
            await asyncio.sleep(_DRAIN_POLL_S)

    async def stop(self) -> None:
        """Close every link and release every model."""
        for task in self._housekeeping:
            task.cancel()
        if self._follower is not None:
            await self._follower.stop()
        if self._listener is not None:
            await self._listener.close()
        for link in list(self._links):
            link.connection.close()
        if self._shelf is not None:
            self._shelf.close()
        for host in (*self._hosts.values(), *self._retiring):
            host.close()
        await self._attempts.stop()
        self._loader.close()
        self._life.stop()

    def apply(self, plan: Plan) -> None:
        """Load what is new in this worker's part of the plan and let go of what is not in it."""
        own = next((worker for worker in plan.workers if worker.id == self._identity.id), None)
        if own is not None:
            self._kind, self._on_demand = own.kind, own.on_demand
            self._limit(own.limits)
            self._steps_back = self._steps_back or own.background
        name = self._identity.id
        self._routed = frozenset([variant for worker, variant in routes(plan) if worker == name])
        if self._kind == _QUARANTINE and self._turn is None:
            self._turn = Turn(self._expect_life)
        loads = {load.variant: load for load in own.loads} if own is not None else {}
        self._budget(plan, own)
        for variant, host in list(self._hosts.items()):
            wanted = loads.get(variant)
            if wanted is None or self._is_another(wanted, host):
                self._retiring.append(self._hosts.pop(variant))
                host.retire()
            else:
                self._update(host, wanted)
                self._let_go_when_idle(host)
        self._attempts.keep(loads.values())
        for load in sorted(loads.values(), key=self._attempts.ends):
            if load.variant not in self._hosts:
                self._host(load)
        self._changed()

    def snapshot(self) -> Snapshot:
        """Return what this worker knows of itself."""
        self._snapshots += 1
        identity, rss = self._identity, resident_bytes()
        plan_number = self._follower.plan_number if self._follower is not None else 0
        self._meter.set("salver_process_resident_bytes", ("worker", identity.id), rss)
        self._meter.set("salver_plan_number", (identity.id,), plan_number)
        if self._shelf is not None:
            self._shelf.report(identity.id)
        for variant, host in self._hosts.items():
            labels = (identity.id, variant)
            self._meter.set("salver_model_resident_bytes", labels, host.loading.resident_bytes)
            if on_gpu := host.loading.usage.gpu_bytes:
                is_in = host.loading.resident_bytes > 0
                self._meter.set("salver_model_gpu_bytes", labels, on_gpu * is_in)
            else:
                self._meter.forget("salver_model_gpu_bytes", labels)
        return Snapshot(
            self._snapshots,
            plan_number,
            os.getpid(),
            self._reported_state(),
            rss,
            tuple(host.loading.report() for host in self._hosts.values()),
            self._meter.counters(),
            self._meter.gauges(),
            self._meter.histograms(),
        )

    def _reported_state(self) -> str:
        return "worn" if self._worn and self._state == "ready" else self._state

    def _budget(self, plan: Plan, own: WorkerPlan | None) -> None:
        """Take over how much memory this worker may use; a budget once set can only be changed."""
        if own is None or own.kind != _SHARED:
            return
        engine, allowed_bytes = self._settings.engine, cgroup_limit_bytes()
        budget_bytes = budget_of(plan, engine, allowed_bytes)
        gpu_bytes = engine.gpu_memory_budget_bytes
        if not budget_bytes and not gpu_bytes:
            return
        if self._shelf is None and budget_bytes < budget_of(plan, engine):
            log.warning("budget_lowered", to_bytes=budget_bytes, group_limit_bytes=allowed_bytes)
        if self._shelf is None:
            memory = Residency(UNBOUNDED_BYTES, resident_bytes())
            budgets = Budgets(memory, Residency(UNBOUNDED_BYTES, 0, usual_peak=1), gpu_count())
            prepare = self._loader.prepare
            self._shelf = Shelf(budgets, engine, self._clock, self._meter, prepare)
            self._scarcity.guard.on(UNLOAD, "idle_models", self._shelf.let_go)
        self._shelf.budgets.memory.budget_bytes = budget_bytes or UNBOUNDED_BYTES
        self._shelf.budgets.gpu.budget_bytes = gpu_bytes or UNBOUNDED_BYTES

    def _host(self, load: Load) -> None:
        host: AnyHost
        if load.trust_code:
            self._runs_code = True
            capture_prints(self._clock)
        clock, meter, engine = self._clock, self._meter, self._settings.engine
        common = clock, meter, self._changed, engine.load_timeout_s
        if is_stream(load.runtime):
            streams = Loading(load, self._alone(self._loader.stream), *common)
            host = StreamHost(streams, clock)
        else:
            batches = Loading(load, self._alone(self._loader.batch), *common)
            slots = self._free_slots(load.execution.instances if self._turn is None else 1)
            if self._steps_back:
                # What gets little of the processor is not stuck because it takes long.
                engine = replace(engine, stuck_s=_BACK_TIMES * engine.stuck_s)
            host = BatchHost(batches, engine, clock, meter, self._turn, slots)
        self._hosts[load.variant] = host
        host.loading.expects, host.loading.ended = self._expects, self._attempts.ended
        self._scarcity.refuse_if_needed(host)
        if self._attempts.is_given_up(load):
            is_alone = self._kind == _DEDICATED
            self._attempts.give_up(host, partial(self._place, host), is_alone=is_alone)
        else:
            self._place(host)

    def _place(self, host: AnyHost) -> None:
        """Have a version loaded when it is due."""
        if self._shelf is not None and isinstance(host, BatchHost):
            self._shelf.add(host)
            return
        self._let_go_when_idle(host)
        if self._on_demand and host.loading.state == "evicted":
            # Whoever had this process started wants it.
            host.loading.wanted_ns, host.loading.wakes = self._identity.woken_ns, "process"
            self._attempts.load(host)
        elif host.loading.state == "loading":
            self._attempts.load(host)

    def _let_go_when_idle(self, host: AnyHost) -> None:
        """Have a version leave memory while nobody asks for it, if the plan wants that."""
        load = host.load
        is_kept = self._shelf is not None and isinstance(host, BatchHost)
        if load.lazy or is_kept or self._attempts.is_tried(load):
            return
        if load.idle_s > 0:
            host.loading.come_and_go(proven=load.variant in self._routed)
        elif host.loading.managed:
            host.loading.stay()
            if host.loading.state == "evicted" and not host.loading.active:
                self._attempts.load(host)

    def _limit(self, limits: Limits) -> None:
        """Set the limits that this process starts with; without them it loads nothing.

        A plan with others has another worker for them.
        """
        if self._limits is None:
            self._limits = limits
            try:
                self._own_limits.start(limits, is_spare=self._kind == _QUARANTINE)
            except (SalverError, OSError, ValueError) as error:
                self._unlimited = (
                    error
                    if isinstance(error, SalverError)
                    else ResourceUnavailable(f"this worker cannot limit itself: {error}")
                )

    def _alone(self, load_runtime: Callable[[Load], Loaded]) -> Callable[[Load], Loaded]:
        """Return a way to load that keeps code away from other models, whatever the plan says."""

        def guarded(load: Load) -> Loaded:
            if self._unlimited is not None:
                raise self._unlimited
            others = self._hosts.keys() - {load.variant}
            if load.trust_code and (self._kind == _SHARED or others):
                raise LoadFailed(
                    f"{load.variant} is code, which gets a worker of its own; this one hosts others"
                )
            return load_runtime(load)

        return guarded

    def _free_slots(self, count: int) -> tuple[int, ...]:
        """Return the lowest slots of the ledgers that no version here uses."""
        hosts = (*self._hosts.values(), *self._retiring)
        used = {slot for h in hosts if isinstance(h, BatchHost) for slot in h.seats.slots}
        return tuple(sorted(set(range(len(used) + count)) - used)[:count])

    def _update(self, host: AnyHost, load: Load) -> None:
        """Take over what changed of a version that is hosted."""
        host.update(load)
        if not isinstance(host, BatchHost):
            return
        missing = load.execution.instances - len(host.seats.slots)
        if missing > 0 and self._turn is None:
            host.seats.add_slots(self._free_slots(missing))
        host.renew()
        if self._shelf is not None:
            self._shelf.update(host)

    def _accept(self, connection: Connection) -> GatewayLink:
        engine, address = self._settings.engine, parse_address(self._identity.address)
        local = address if engine.ledger and isinstance(address, UnixAddress) else None
        link = GatewayLink(
            connection,
            self._hosts.get,
            self._links.discard,
            joins=engine.cohorts,
            folder=None if local is None else Path(local.path).parent,
            is_only=lambda: len(self._links) == 1,
        )
        self._links.add(link)
        connection.send(self._announcement())
        if self._state == _LEAVING:
            connection.send(Drain("idle"))
        return link

    def _announcement(self) -> Snapshot:
        """Say which versions can answer; gateways route by it."""
        states = tuple(host.loading.report() for host in self._hosts.values())
        return Snapshot(0, 0, os.getpid(), self._state, 0, states)

    def _changed(self) -> None:
        states = {host.loading.state for host in self._hosts.values()}
        if self._steps_back and not self._is_back and states and "loading" not in states:
            # Not before: what is started where others are busy would take minutes to load.
            self._is_back = True
            step_back()
        self._expect_life()
        announcement = self._announcement()
        for link in self._links:
            link.connection.send(announcement)
        if self._follower is not None:
            self._follower.poke()

    def _is_another(self, wanted: Load, host: AnyHost) -> bool:
        """Tell whether a load has to be hosted anew, and not only taken over."""
        load, given_up = host.load, self._attempts.is_given_up
        if wanted.digest != load.digest:
            return True
        # What was tried with success and is on its way goes on: both would use the same folder.
        return given_up(load) and not given_up(wanted) and not host.loading.active

    def _expects(self, load: Load) -> None:
        self._attempts.begins(load)
        self._expect_life()

    def _expect_life(self, hurried: bool = False) -> None:
        self._life.promise(runs_code=self._runs_code, loads=self._loads, hurried=hurried)

    @property
    def _loads(self) -> bool:
        loadings = [host.loading for host in (*self._hosts.values(), *self._retiring)]
        return any(one.active or one.renewing for one in loadings)

    def _wear(self, worn: bool) -> None:
        if worn and not self._worn:
            log.warning("worker_worn", resident_bytes=resident_bytes())
        self._worn = worn

    async def _keep_house(self) -> None:
        while True:
            self._expect_life()
            await asyncio.sleep(_IDLE_CHECK_S)
            if self._shelf is not None:
                self._wear(self._shelf.keep_within())
            for host in [host for host in self._retiring if host.idle]:
                self._retiring.remove(host)
                if self._shelf is not None and isinstance(host, BatchHost):
                    self._shelf.remove(host)
                host.close()
                for name in ("salver_model_resident_bytes", "salver_model_gpu_bytes"):
                    self._meter.forget(name, (self._identity.id, host.load.variant))
                if host.load.variant not in self._hosts:
                    remove(self._loader.folder(host.load))
            if self._own_limits.is_spent(loads=self._loads):
                log.error("memory_kept", fix="the code leaks, or needs a higher --memory-limit")
                self._unneeded()
            self._send_idle_away(self._clock.monotonic_ns())

    def _send_idle_away(self, now_ns: int) -> None:
        """Let go of what was not asked for, or of the whole process."""
        hosts = [*self._hosts.values(), *self._retiring]
        if self._on_demand and hosts and all(self._is_unneeded(host, now_ns) for host in hosts):
            self._unneeded()
            return
        for host in self._hosts.values():
            if self._idle_s(host.load) and self._is_unneeded(host, now_ns):
                self._send_away(host)

    def _send_away(self, host: AnyHost) -> None:
        shelf = self._shelf
        if shelf is None or isinstance(host, StreamHost) or not shelf.send_away(host):
            host.unload()

    def _idle_s(self, load: Load) -> float:
        return self._settings.engine.quarantine_idle_s if load.lazy else load.idle_s

    def _is_unneeded(self, host: AnyHost, now_ns: int) -> bool:
        """Tell whether a version was idle for long; the only news of a first load is its state."""
        load = host.load
        if not host.idle or (not load.lazy and load.variant not in self._routed):
            return False
        idle_s = load.idle_s if self._on_demand else self._idle_s(load)
        return now_ns - host.last_used_ns > idle_s * 1e9
