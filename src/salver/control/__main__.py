"""`python -m salver.control`: the control process."""

import argparse
import asyncio
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import numpy as np
import uvloop

from salver.control.api.app import build_app
from salver.control.api.routes import Services
from salver.control.api.security import load_token
from salver.control.api.serving import answer, until_open
from salver.control.audit import Audit, AuditTidier
from salver.control.changes import Changer
from salver.control.database import DatabaseThread
from salver.control.deploy import Deployer
from salver.control.feedback import Feedback
from salver.control.golden import GoldenGate
from salver.control.hub import Hub
from salver.control.lease import LeaseKeeper
from salver.control.overview import Overview
from salver.control.push import Pusher
from salver.control.reconcile import Reconciler
from salver.control.reports import Reporter
from salver.control.rollouts.commands import Rollouts
from salver.control.rollouts.evidence import EvidenceBooks
from salver.control.rollouts.experiments import Experiments, Pace
from salver.control.rollouts.follower import AliasFollower
from salver.control.rollouts.gates import Gates
from salver.control.rollouts.memory import Memory
from salver.control.rollouts.placing import Placing
from salver.control.rollouts.runner import Runner, Stores
from salver.control.rollouts.side_reports import SideReports
from salver.control.rollouts.sides import SideParts, Sides
from salver.control.rollouts.wanted import WantedMetrics
from salver.control.scratch import take_scratch
from salver.control.tidying import BlobTidier, Chore, Tidying
from salver.control.webhooks.deliverer import Deliverer
from salver.control.webhooks.opening import open_sender
from salver.core.clock import SystemClock
from salver.core.errors import SalverError
from salver.core.exits import give_up
from salver.core.ids import RequestIds
from salver.core.secret_file import load_secret
from salver.core.settings import ControlSettings, Settings
from salver.core.settings_file import read_settings
from salver.observe.heartbeat import Heartbeat
from salver.observe.logs import configure_logs, get_logger
from salver.observe.merge import Merger
from salver.registry.approvals import ApprovalStore
from salver.registry.blobs import BlobStore
from salver.registry.catalog import Catalog
from salver.registry.database import Database, sqlite_url
from salver.registry.feedback import FeedbackStore
from salver.registry.lease import Lease
from salver.registry.rollouts import RolloutStore
from salver.registry.sides import SideStore
from salver.registry.state import StateStore
from salver.registry.webhooks import DeliveryStore
from salver.rollout.metrics.plugins import load_plugins
from salver.rollout.metrics.table import register
from salver.wire.messages import Evidence

log = get_logger(__name__)

_LOOPBACK = "127.0.0.1"
_IDENTITY_BYTES = 16
_IDENTITY_DIGITS = 12
_MAX_HOLDER = 256
_KEY_BYTES = 32
_HOUR_S = 3600.0
_DAY_S = 86_400.0
_SETTLED_S = 600.0
"""Time after a start until blobs are looked through, when what is deployed has been loaded."""


def main(arguments: list[str] | None = None) -> None:
    """Run control until it is told to stop."""
    options = _parse(arguments)
    home = Path(options.home)
    try:
        settings = read_settings(home)
        configure_logs(settings.observe.log_level, process="control", pid=os.getpid())
        _register(settings.control)
        limit_s, ending_s = settings.control.unresponsive_s, settings.supervisor.stop_timeout_s
        heartbeat = Heartbeat(home / "run", "control", limit_s, SystemClock())
        work = _serve(home, settings, _listening_socket(options), options.http_url)
        uvloop.run(heartbeat.during(work, ending_s))
    except SalverError as error:
        give_up(error)


def _register(settings: ControlSettings) -> None:
    """Know the metrics that this machine has besides Salver's own."""
    plugins = load_plugins(settings.metric_plugins)
    register(plugins)
    if plugins:
        log.info("metrics_registered", kinds=sorted(plugins))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="salver control", description=__doc__)
    parser.add_argument("--home", required=True, help="folder of the server's state")
    parser.add_argument("--fd", type=int, help="inherited listening socket")
    parser.add_argument("--port", type=int, default=8090, help="port, when there is no --fd")
    parser.add_argument("--http-url", default="http://127.0.0.1:8080", help="the data port's URL")
    return parser.parse_args(arguments)


def _listening_socket(options: argparse.Namespace) -> socket.socket:
    if options.fd is not None:
        return socket.socket(fileno=options.fd)
    return socket.create_server((_LOOPBACK, options.port))


async def _serve(home: Path, settings: Settings, listening: socket.socket, http_url: str) -> None:
    clock = SystemClock()
    thread = DatabaseThread()
    database = Database(settings.control.database_url or sqlite_url(home / "salver.db"))
    await until_open(database.provision, thread, load_token(home), listening)
    blobs = _folders(home)
    catalog, state = Catalog(database, clock), StateStore(database, clock)
    holder = load_secret(home / "control.identity", _IDENTITY_BYTES).decode()[:_IDENTITY_DIGITS]
    lease = Lease(database, f"{home} {holder}"[-_MAX_HOLDER:], clock)
    store, sides = RolloutStore(database, lease, clock), SideStore(database, lease)
    keeper = LeaseKeeper(lease, thread)
    await keeper.start()
    retired, live = await thread(state.load_telemetry)
    merger = Merger(retired)
    for incarnation, snapshot in live.items():
        merger.update(incarnation, snapshot)
    reconciler = Reconciler(home, catalog, state, thread, settings, clock, store, sides, lease)
    incarnation = secrets.token_hex(8)
    hub = Hub(f"unix:{home / 'run' / 'control.sock'}", incarnation, clock, merger, reconciler.wake)
    memory = Memory(catalog, settings.engine, reconciler.wanted, lambda: reconciler.plan, hub.bases)
    gates = Gates(catalog, store, sides, ApprovalStore(database, lease, clock), memory)
    placing = Placing(catalog, state, store, gates, settings.control.keep_previous_s)
    deployer = Deployer(reconciler, hub, catalog, state, thread, placing, http_url)
    feedback = _feedback(home, database, state, thread, settings)
    feedback.wanted = WantedMetrics(store, sides)
    hub.change = changer = Changer(deployer, state, thread, settings)
    hub.report = reporter = Reporter(feedback, is_on=settings.http.feedback)
    deliverer = Deliverer(
        DeliveryStore(database, lease, clock, settings.control.webhook_queue),
        thread,
        open_sender(home, settings.control, clock),
        merger.count,
        clock,
        random.SystemRandom(),
    )
    stores = Stores(store, sides, state, feedback.store, deliverer.store, catalog, thread)
    books, audit = EvidenceBooks(), Audit(state, thread)
    moves = partial(deployer.move_alias, force=False)
    runner = Runner(stores, reconciler, hub, books, deliverer, clock)
    rollouts = Rollouts(stores, catalog, gates, runner, reconciler, deployer, clock)
    parts = SideParts(sides, state, feedback.store, thread)
    companions = Sides(parts, catalog, gates, reconciler, clock)
    experiments = Experiments(parts, gates, reconciler, clock, np.random.default_rng())
    hub.evidence = _each(books.take, experiments.take)
    follower = AliasFollower(rollouts, catalog, state, thread, reconciler)
    await reconciler.start(hub, GoldenGate(blobs, hub, reconciler.address_of, reconciler.wake))
    await _start(runner, follower, experiments, settings.control)
    services = Services(
        blobs,
        catalog,
        state,
        thread,
        Pusher(blobs, catalog, thread, settings, moves, audit, lease),
        deployer,
        reconciler,
        Overview(home, hub, reconciler, catalog, thread),
        feedback,
        settings.control,
        rollouts,
        SideReports(companions, hub.merger),
        audit,
    )
    tidying = _tidying(
        BlobTidier(blobs, catalog, thread, clock),
        feedback,
        AuditTidier(state, thread, lease, clock, settings.control.audit_days),
    )
    await tidying.start()
    try:
        await answer(build_app(services, load_token(home)), home, listening)
    finally:
        for busy in (experiments, follower, runner, changer, reporter, tidying):
            await busy.stop()
        await reconciler.stop()
        await keeper.stop()
        # Not here: while a statement waits for its database this process shall give signs of life.
        await asyncio.to_thread(thread.stop)
        database.close()


def _folders(home: Path) -> BlobStore:
    """Return the models' files; raises ``StorageFull``."""
    blobs = BlobStore(home / "blobs" / "sha256")
    blobs.provision()
    take_scratch(home / "run" / "scratch")
    return blobs


def _each(*takers: Callable[[str, Evidence], None]) -> Callable[[str, Evidence], None]:
    """Return what gives evidence to everybody who may want it."""

    def take(incarnation: str, evidence: Evidence) -> None:
        for taker in takers:
            taker(incarnation, evidence)

    return take


async def _start(
    runner: Runner, follower: AliasFollower, experiments: Experiments, settings: ControlSettings
) -> None:
    """Begin to look at what goes on by itself."""
    interval_s = settings.rollout_interval_s
    await runner.start(interval_s)
    await follower.start(interval_s)
    await experiments.start(Pace(interval_s, settings.experiment_interval_s))


def _tidying(blobs: BlobTidier, feedback: Feedback, audit: AuditTidier) -> Tidying:
    return Tidying(
        _hourly("audit", audit),
        _hourly("feedback", feedback.forget_old),
        # A crash in an upload leaves as much as a model, and the next push may need the room.
        _hourly("uploads", blobs.drop_leftovers),
        Chore("blobs", blobs, _SETTLED_S, _DAY_S),
    )


def _hourly(name: str, work: Callable[[], Awaitable[object]]) -> Chore:
    return Chore(name, work, 0.0, _HOUR_S)


def _feedback(
    home: Path, database: Database, state: StateStore, thread: DatabaseThread, settings: Settings
) -> Feedback:
    clock = SystemClock()
    ids = RequestIds(load_secret(home / "ids.key", _KEY_BYTES), 0, clock)
    days = settings.control.feedback_days
    return Feedback(FeedbackStore(database), state, thread, ids, clock, days)


if __name__ == "__main__":
    main()
