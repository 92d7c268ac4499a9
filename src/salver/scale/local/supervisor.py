"""Owns the listening sockets and keeps control, gateways and workers alive.

It knows neither SQL nor models, so that it does not die of them. Which workers exist is in the
plan, first from disk, then from control.
"""

import asyncio
import ipaddress
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from salver.core.clock import Clock
from salver.core.durable import storage_errors
from salver.core.errors import Conflict, InvalidSettings
from salver.core.secret_file import load_secret
from salver.core.settings import Settings, SupervisorSettings
from salver.core.tls import ServerTls, server_context, server_tls
from salver.scale.local import leftovers
from salver.scale.local.activation import DoorChild
from salver.scale.local.claims import listen, lock
from salver.scale.local.groups.grouping import Grouping
from salver.scale.local.later import Later
from salver.scale.local.lifeguard import Lifeguard
from salver.scale.local.logs import LogTrimmer
from salver.scale.local.orphans import Orphans
from salver.scale.local.process import Child
from salver.scale.local.start import Command, Process, Start, start_anew
from salver.scale.local.table import Table
from salver.scale.local.warm import WarmPool
from salver.scale.local.whereabouts import Whereabouts
from salver.wire import attempts, copies, pulse
from salver.wire.address import UnixAddress, parse_address
from salver.wire.deaths import Death
from salver.wire.follower import PlanFollower
from salver.wire.messages import (
    PROTOCOL_VERSION,
    Hello,
    Plan,
    Sample,
    Snapshot,
    WorkerPlan,
    routes,
)

_SECRET_BYTES = 32
_MAX_DEATHS = 32
_LAST_PORT = 65_535
_LOOPBACK = "127.0.0.1"
_SHARED = "shared"
_MAX_GONE = 1024

Parts = tuple[Command, Path, SupervisorSettings, Clock, Callable[[], None], Start]


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What ``salver up`` was told; a gRPC port of None is the one after the data port."""

    home: Path
    http_host: str
    http_port: int
    grpc_port: int | None
    control_port: int
    gateways: int
    api_keys: Path | None
    allow_anonymous: bool
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None

    @property
    def tls(self) -> ServerTls | None:
        """What the data ports speak TLS with; raises ``InvalidSettings``."""
        return server_tls(
            self.tls_cert, self.tls_key, self.tls_client_ca, has_keys=self.api_keys is not None
        )


class Supervisor:
    """Component of the supervisor process.

    ``refused`` is called when something that is started first cannot begin with these settings;
    ``refusal`` is what it said.
    """

    def __init__(
        self, options: UpOptions, settings: Settings, clock: Clock, incarnation: str
    ) -> None:
        self._options = options
        self._settings = settings
        self._clock = clock
        self._incarnation = incarnation
        self._run = options.home / "run"
        self._logs = options.home / "logs"
        self._children: dict[str, Child] = {}
        self._plan: Plan | None = None
        self._leaving: dict[str, tuple[Child, asyncio.Task[None]]] = {}
        self._gone_restarts: dict[str, int] = {}
        self._deaths: deque[Death] = deque(maxlen=_MAX_DEATHS)
        self._snapshots = 0
        self._stopping = False
        self._http: socket.socket | None = None
        self._grpc: socket.socket | None = None
        self._control: socket.socket | None = None
        self._lock: int | None = None
        self._follower: PlanFollower | None = None
        self._pool: WarmPool | None = None
        self._orphans = Orphans(self._own_pids)
        self._grouping = Grouping(options.home, settings.supervisor, clock)
        self._table = Table(self._run / "processes.json", self._shown)
        self._whereabouts = Whereabouts(self._run)
        self._doors = Later(self._open_again)
        self.refusal = ""
        self.refused: Callable[[], None] = lambda: None
        children = self._children
        self._lifeguard = Lifeguard(self._run, settings, clock, lambda: list(children.values()))
        self._trimmer = LogTrimmer(options.home / "logs")

    def provision(self) -> None:
        """Take the home folder and the ports.

        Raises ``InvalidSettings``, ``Conflict`` or ``StorageFull`` with the fix.
        """
        options = self._options
        check_exposure(options)
        if (tls := options.tls) is not None:
            server_context(tls)
        with storage_errors(self._run):
            for folder in (options.home, self._run, self._logs):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = lock(self._run / "supervisor.lock")
        # Made here so that whoever sees the ports finds the secrets too.
        for name in ("control.token", "ids.key"):
            load_secret(options.home / name, _SECRET_BYTES)
        self._http = listen(options.http_host, options.http_port, "--http-port")
        self._grpc = listen(options.http_host, _grpc_port(options), "--grpc-port")
        self._control = listen(_LOOPBACK, options.control_port, "--control-port")
        self._orphans.provision()
        pulse.clear(self._run)
        attempts.clear(self._run)
        copies.clear(self._run)
        self._grouping.provision()

    @property
    def http_url(self) -> str:
        """The data port's URL as clients on this machine use it."""
        assert self._http is not None
        host, port = self._http.getsockname()[:2]
        shown = _LOOPBACK if host in ("0.0.0.0", "::") else host  # noqa: S104 - only compared
        scheme = "http" if self._options.tls_cert is None else "https"
        return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"

    @property
    def grpc_target(self) -> str:
        """Host and port that gRPC clients on this machine use."""
        assert self._grpc is not None
        host, port = self._grpc.getsockname()[:2]
        shown = _LOOPBACK if host in ("0.0.0.0", "::") else host  # noqa: S104 - only compared
        return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"

    @property
    def control_url(self) -> str:
        """The control API's URL."""
        assert self._control is not None
        return f"http://{_LOOPBACK}:{self._control.getsockname()[1]}"

    async def start(self) -> None:
        """Start everything; workers are those of the plan on disk. Raises ``StorageFull``."""
        hello = Hello(PROTOCOL_VERSION, "supervisor", "supervisor", self._incarnation)
        self._follower = PlanFollower(
            self._run / "plan.msgpack",
            f"unix:{self._run / 'control.sock'}",
            hello,
            self.apply,
            self.snapshot,
            self._settings.control.snapshot_interval_s,
        )
        for index in range(self._options.gateways):
            self._start_child(self._gateway(index))
        await self._follower.start()
        if not any(child.command.role == "worker" for child in self._children.values()):
            # Control's first plan has it too; starting now saves the first deploy the wait.
            self._start_child(self._worker("shared-0"))
        self._start_child(self._control_command())
        for identity, child in self._children.items():
            # Who sleeps may begin much later, beside others that serve.
            if not isinstance(child, DoorChild):
                child.refused = partial(self._refused, identity)
        self._orphans.start()
        self._grouping.start()
        self._lifeguard.start()
        self._trimmer.start()
        addresses = {
            "http_url": self.http_url,
            "grpc_target": self.grpc_target,
            "control_url": self.control_url,
        }
        self._whereabouts.start(addresses)

    async def stop(self) -> None:
        """Stop gateways first, then workers, control last."""
        self._stopping = True
        self._whereabouts.leave()
        for listening in (self._http, self._grpc):
            if listening is not None:
                listening.close()
        self._doors.stop()
        self._table.stop()
        timeout_s = self._settings.supervisor.stop_timeout_s
        if self._pool is not None:
            self._pool.stop()
        for role in ("gateway", "worker", "zygote", "control"):
            children = [c for c in self._children.values() if c.command.role == role]
            await asyncio.gather(*(child.stop(timeout_s) for child in children))
        leaving = [task for _, task in self._leaving.values()]
        await asyncio.gather(*leaving, return_exceptions=True)
        await self._grouping.stop()
        await self._lifeguard.stop()
        await self._trimmer.stop()
        await self._orphans.stop()
        if self._follower is not None:
            await self._follower.stop()
        self._whereabouts.stop()

    def hurry(self) -> None:
        """Kill what has not stopped yet."""
        for child in self._everybody():
            child.hurry()

    def _everybody(self) -> list[Child]:
        return [*self._children.values(), *(child for child, _ in self._leaving.values())]

    def apply(self, plan: Plan) -> None:
        """Run the workers of this plan and no others.

        One that is still stopping comes back when it has: two would share a socket and files.
        """
        if self._stopping:
            return
        self._plan = plan
        wanted = {worker.id for worker in plan.workers}
        running = {
            c.command.identity for c in self._children.values() if c.command.role == "worker"
        }
        if any(worker.on_demand for worker in plan.workers):
            self._start_pool()
        asked = routes(plan)
        self._doors.keep(wanted)
        for worker in plan.workers:
            if worker.id not in self._leaving:
                self._run_worker(worker, asked, is_new=worker.id not in running)
        for identity in running - wanted:
            child = self._children.pop(identity)
            self._remember(identity, child)
            task = asyncio.create_task(self._end(identity, child))
            self._leaving[identity] = child, task
            task.add_done_callback(partial(self._left, identity))
        self._write_table()

    def _remember(self, identity: str, child: Child) -> None:
        """Keep how often one was restarted that goes, should it come back; only of the newest."""
        count = self._restarts(identity, child)
        self._gone_restarts.pop(identity, None)
        if count:
            self._gone_restarts[identity] = count
        if len(self._gone_restarts) > _MAX_GONE:
            del self._gone_restarts[next(iter(self._gone_restarts))]

    async def _end(self, identity: str, child: Child) -> None:
        await child.stop(self._settings.supervisor.stop_timeout_s)
        await asyncio.to_thread(leftovers.remove, self._run, identity)

    def _left(self, identity: str, task: asyncio.Task[None]) -> None:
        del self._leaving[identity]
        stopped = task.cancelled() or self._stopping
        if self._plan is not None and not stopped:
            self.apply(self._plan)

    def _run_worker(self, worker: WorkerPlan, asked: set[tuple[str, str]], *, is_new: bool) -> None:
        """Start a worker, or keep its door until somebody wants it.

        What gateways may not ask for yet has to be loaded once, to see that it can be.
        """
        child = self._children.get(worker.id)
        address = parse_address(worker.address)
        # Any but a shared one may come to run on demand later.
        has_door = worker.kind != _SHARED or worker.on_demand
        if is_new and has_door and isinstance(address, UnixAddress):
            child = DoorChild(*self._parts(self._worker(worker.id, worker.threads)))
            child.died = partial(self._died, worker.id)
            try:
                child.provision(Path(address.path))
            except Conflict as error:
                self._doors.failed(worker.id, f"{worker.id} cannot be reached: {error.message}")
                return
            self._doors.worked(worker.id)
        elif is_new:
            self._start_child(self._worker(worker.id, worker.threads))
            return
        if isinstance(child, DoorChild):
            new = any(not load.lazy and (worker.id, load.variant) not in asked
                      for load in worker.loads)  # fmt: skip
            variants = tuple(load.variant for load in worker.loads)
            child.demand(variants, on_demand=worker.on_demand, now=new)
            if is_new:
                self._children[worker.id] = child
                child.start()

    def _open_again(self) -> None:
        """Start the workers whose doors could not be opened before."""
        plan = self._plan
        if plan is None:
            return
        for worker in plan.workers:
            if worker.id in self._doors.failing and worker.id not in self._leaving:
                self._run_worker(worker, routes(plan), is_new=True)
        self._write_table()

    def _start_pool(self) -> None:
        """Keep processes warm from now on; nobody pays for it who starts nothing on demand."""
        settings = self._settings.supervisor
        if self._pool is not None or settings.warm_processes <= 0:
            return
        pool = WarmPool(
            settings.warm_processes,
            self._options.home,
            settings.warm_runtimes,
            self._worker_environment(),
        )
        command = pool.provision()
        self._pool = pool
        self._start_child(command)
        zygote = self._children[command.identity]
        pool.zygote_pid = lambda: zygote.pid
        pool.start()

    def _own_pids(self) -> set[int]:
        """Return the processes that somebody here waits for."""
        pids = {child.pid for child in self._everybody() if child.pid is not None}
        return pids | (self._pool.pids if self._pool is not None else set())

    def snapshot(self) -> Snapshot:
        """Return how often each child was restarted."""
        self._snapshots += 1
        restarts = dict(self._gone_restarts)
        for identity, child in self._children.items():
            restarts[identity] = self._restarts(identity, child)
        counters = tuple(
            Sample("salver_process_restarts_total", (identity,), float(count))
            for identity, count in restarts.items()
        )
        plan = self._follower.plan_number if self._follower is not None else 0
        pid, deaths = os.getpid(), tuple(self._deaths)
        return Snapshot(self._snapshots, plan, pid, "ready", 0, (), counters, deaths=deaths)

    def _died(self, identity: str, pid: int) -> None:
        """Take note of a worker's process that ended unasked, and of what it hosted."""
        plan = self._plan
        if plan is None:
            return
        own = next((worker for worker in plan.workers if worker.id == identity), None)
        hosted = tuple(load.variant for load in own.loads) if own is not None else ()
        self._deaths.append(Death(identity, pid, hosted, plan.number))

    def _refused(self, identity: str, told: str) -> None:
        """Serve nobody rather than half: at the start people look, and can mend it."""
        self.refusal = self.refusal or f"{identity} cannot begin: {told}"
        self.refused()

    def _restarts(self, identity: str, child: Child) -> int:
        return self._gone_restarts.get(identity, 0) + child.restarts

    def _start_child(self, command: Command) -> None:
        child = Child(*self._parts(command))
        if command.role == "worker":
            child.died = partial(self._died, command.identity)
        self._children[command.identity] = child
        child.start()

    def _parts(self, command: Command) -> Parts:
        settings = self._settings.supervisor
        return command, self._logs, settings, self._clock, self._write_table, self._start_process

    async def _start_process(self, command: Command, log: int) -> Process:
        self._lifeguard.expect(command)
        if command.role != "worker":
            return await start_anew(command, log)
        child = self._children.get(command.identity)
        if child is not None and child.last_end:
            arguments = (*command.arguments, "--last-end", child.last_end)
            command = replace(command, arguments=arguments)
        start = start_anew if self._pool is None else self._pool.start_process
        plans = () if self._plan is None else self._plan.workers
        own = next((worker for worker in plans if worker.id == command.identity), None)
        return await self._grouping.start_process(command, log, own, start)

    def _gateway(self, index: int) -> Command:
        assert self._http is not None
        assert self._grpc is not None
        descriptors = (self._http.fileno(), self._grpc.fileno())
        arguments = ["--home", str(self._options.home), "--id", f"gateway-{index}"]
        arguments += ["--gateways", str(self._options.gateways)]
        for descriptor in descriptors:
            arguments += ["--fd", str(descriptor)]
        if self._options.api_keys is not None:
            arguments += ["--api-keys", str(self._options.api_keys)]
        if (tls := self._options.tls) is not None:
            arguments += ["--tls-cert", str(tls.certificate), "--tls-key", str(tls.key)]
            if tls.client_authority is not None:
                arguments += ["--tls-client-ca", str(tls.client_authority)]
        return Command(
            f"gateway-{index}", "gateway", "salver.gateway", tuple(arguments), descriptors
        )

    def _worker(self, identity: str, own_threads: int = 0) -> Command:
        return Command(
            identity,
            "worker",
            "salver.engine",
            ("--home", str(self._options.home), "--id", identity),
            environment=self._worker_environment(own_threads),
        )

    def _worker_environment(self, own_threads: int = 0) -> dict[str, str]:
        threads = str(own_threads or self._settings.engine.threads)
        return {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}

    def _control_command(self) -> Command:
        assert self._control is not None
        descriptor = self._control.fileno()
        arguments = ("--home", str(self._options.home), "--fd", str(descriptor))
        return Command(
            "control",
            "control",
            "salver.control",
            (*arguments, "--http-url", self.http_url),
            (descriptor,),
        )

    def _write_table(self) -> None:
        """Write down what runs, and tell control that something has changed."""
        if self._stopping:
            return
        self._table.write()
        if self._follower is not None:
            self._follower.poke()

    def _shown(self) -> dict[str, object]:
        rows = [
            {
                "identity": identity,
                "role": child.command.role,
                "pid": child.pid,
                "state": child.state,
                "restarts": self._restarts(identity, child),
                "last_end": child.last_end,
                "limits": self._grouping.ways.get(identity, ""),
            }
            for identity, child in self._children.items()
        ]
        return {"processes": rows, "worker_limits": self._grouping.told}


def check_exposure(options: UpOptions) -> None:
    """Raise ``InvalidSettings`` when anybody on the network could use the data port unasked."""
    try:
        loopback = ipaddress.ip_address(options.http_host).is_loopback
    except ValueError:
        loopback = options.http_host == "localhost"
    asks_callers = options.api_keys is not None or options.tls_client_ca is not None
    if not loopback and not asks_callers and not options.allow_anonymous:
        raise InvalidSettings(
            f"{options.http_host} can be reached from other machines: give --api-keys FILE "
            "('salver key new' makes keys) or --tls-client-ca FILE, or say --allow-anonymous if "
            "everybody may call"
        )
    if options.api_keys is not None and not options.api_keys.is_file():
        raise InvalidSettings(f"--api-keys: there is no file {options.api_keys}")


def _grpc_port(options: UpOptions) -> int:
    if options.grpc_port is not None:
        return options.grpc_port
    return options.http_port + 1 if 0 < options.http_port < _LAST_PORT else 0
