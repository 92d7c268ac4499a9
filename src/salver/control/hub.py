"""Control's links to the other processes: plans out, acknowledgements and snapshots in."""

from collections.abc import Callable, Sequence

from salver.control.deaths import Deaths
from salver.control.desired import Observed
from salver.control.hosts import asleep, successions
from salver.core.clock import Clock
from salver.core.errors import NotReady, WireError
from salver.observe.logs import get_logger
from salver.observe.merge import Merger
from salver.wire.connection import Connection
from salver.wire.deaths import Death
from salver.wire.framing import Buffer, encode
from salver.wire.messages import (
    ANSWERING_STATES,
    PROTOCOL_VERSION,
    Change,
    Evidence,
    Fail,
    Hello,
    Message,
    Plan,
    PlanAck,
    PlanPush,
    Report,
    Snapshot,
)
from salver.wire.transport import Listener, listen

log = get_logger(__name__)

GATEWAY, WORKER, SUPERVISOR = "gateway", "worker", "supervisor"
_READY, _WORN = "ready", "worn"
_LOADING, _BASE = "loading", "salver_memory_base_bytes"
_RETIRE_AFTER_S = 60.0
_RETRY_AFTER_S = 1.0


class Peer:
    """One connected process; its snapshot came at ``received_ns``."""

    def __init__(self, hub: "Hub", connection: Connection) -> None:
        hello = connection.peer
        assert hello is not None
        self.hello: Hello = hello
        self.connection = connection
        self.snapshot: Snapshot | None = None
        self.acknowledged = 0
        self.received_ns = 0
        self._hub = hub

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take a report, or a gateway's question."""
        del payload
        if isinstance(message, PlanAck):
            self.acknowledged = message.number
            self._hub.changed()
        elif isinstance(message, Snapshot):
            before = self.snapshot
            self.snapshot, self.received_ns = message, self._hub.now_ns()
            self.acknowledged = max(self.acknowledged, message.plan)
            self._hub.merger.update(self.hello.incarnation, message)
            self._hub.take_deaths(self.hello.role, message.deaths)
            if before is None or (before.variants, before.state) != (
                message.variants,
                message.state,
            ):
                self._hub.changed()
        elif isinstance(message, Evidence) and self.hello.role == GATEWAY:
            self._hub.evidence(self.hello.incarnation, message)
        elif isinstance(message, Change) and self.hello.role == GATEWAY:
            self._hub.change(self.connection, self.hello.identity, message)
        elif isinstance(message, Report) and self.hello.role == GATEWAY:
            self._hub.report(self.connection, message)

    def on_lost(self, error: WireError | None) -> None:
        """Take note that the process is gone."""
        del error
        self._hub.lost(self)


class Hub:
    """Component that keeps every link; ``changed`` is called when reconciling may be due.

    ``change`` takes what a gateway wants changed, with the link that the answer goes to and the
    gateway's identity; ``report`` what its callers say became of answers, with that link;
    ``evidence`` what one has counted for a rollout, with its incarnation.
    """

    def __init__(
        self,
        address: str,
        incarnation: str,
        clock: Clock,
        merger: Merger,
        changed: Callable[[], None],
    ) -> None:
        self._address = address
        self._hello = Hello(PROTOCOL_VERSION, "control", "control", incarnation)
        self._clock = clock
        self.merger = merger
        self.changed = changed
        self.change: Callable[[Connection, str, Change], None] = _refuse
        self.report: Callable[[Connection, Report], None] = _not_yet
        self.evidence: Callable[[str, Evidence], None] = _ignore
        self.plan: Plan | None = None
        self.deaths = Deaths()
        self._peers: dict[str, Peer] = {}
        self._absent_since_ns: dict[str, int] = {}
        self._listener: Listener | None = None

    async def start(self, plan: Plan | None) -> None:
        """Listen, and give everybody who comes this plan."""
        self.plan = plan
        now_ns = self._clock.monotonic_ns()
        self._absent_since_ns = dict.fromkeys(self.merger.live, now_ns)
        self._listener = await listen(self._address, self._hello, self._accept)

    async def stop(self) -> None:
        """Close every link."""
        if self._listener is not None:
            await self._listener.close()
        for peer in list(self._peers.values()):
            peer.connection.close()

    @staticmethod
    def encoded(plan: Plan) -> bytes:
        """Return what says a plan; raises ``WireError`` for one that nobody could be sent."""
        return encode(PlanPush(plan), 0)

    def push(self, plan: Plan, frame: bytes) -> None:
        """Send a plan, and how it is ``encoded``, to everybody."""
        self.plan = plan
        for peer in self._peers.values():
            peer.connection.send_frame(frame)

    def now_ns(self) -> int:
        """Return the time by which reports are dated."""
        return self._clock.monotonic_ns()

    def peers(self, role: str) -> list[Peer]:
        """Return the connected processes of a role."""
        return [peer for peer in self._peers.values() if peer.hello.role == role]

    def connected(self) -> set[str]:
        """Return the incarnations of the connected processes."""
        return {peer.hello.incarnation for peer in self._peers.values()}

    def observed(self) -> Observed:
        """Return what the planner needs to know."""
        workers = {
            peer.hello.identity: {item.variant: item for item in peer.snapshot.variants}
            for peer in self.peers(WORKER)
            if peer.snapshot is not None and peer.snapshot.state in (_READY, _WORN)
        }
        worn = [
            peer.hello.identity
            for peer in self.peers(WORKER)
            if peer.snapshot is not None and peer.snapshot.state == _WORN
        ]
        successors = {} if self.plan is None else successions(self.plan, worn)
        numbers = [peer.acknowledged for peer in self.peers(GATEWAY)]
        sleeping = frozenset() if self.plan is None else asleep(self.plan, workers)
        return Observed(workers, min(numbers) if numbers else None, successors, sleeping)

    def incarnations(self) -> dict[str, str]:
        """Return which process each connected worker is, by the worker's identity."""
        return {peer.hello.identity: peer.hello.incarnation for peer in self.peers(WORKER)}

    def sizes(self) -> dict[str, int]:
        """Return the most that each version took in a worker's memory when it was loaded."""
        sizes: dict[str, int] = {}
        for peer in self.peers(WORKER):
            for item in peer.snapshot.variants if peer.snapshot is not None else ():
                if item.size_bytes and item.state in ANSWERING_STATES:
                    sizes[item.variant] = max(item.size_bytes, sizes.get(item.variant, 0))
        return sizes

    def pids(self) -> dict[str, int]:
        """Return the process of each connected worker that has reported, by its incarnation."""
        return {
            peer.hello.incarnation: peer.snapshot.pid
            for peer in self.peers(WORKER)
            if peer.snapshot is not None
        }

    def take_deaths(self, role: str, deaths: Sequence[Death]) -> None:
        """Take what the supervisor or a gateway knows of processes that are gone."""
        for death in deaths:
            if role == SUPERVISOR:
                self.deaths.ended(death, self.now_ns())
            elif role == GATEWAY:
                self.deaths.ran(death.worker, death.pid, death.variants)

    def crashes(self, variant: str, after_plan: int, patience_s: float) -> int:
        """Return how many processes ended because of a version, under plans after this one.

        An end counts when every connected gateway has reported since, and could say what it had
        asked of that process, or when it has been known for ``patience_s``.
        """
        now_ns = self._clock.monotonic_ns()
        heard_ns = min([peer.received_ns for peer in self.peers(GATEWAY)], default=0)
        until_ns = max(heard_ns, now_ns - round(patience_s * 1e9))
        return self.deaths.of(variant, after_plan, until_ns)

    def bases(self) -> dict[str, int]:
        """Return what workers with a memory budget take without their models."""
        return {
            gauge.labels[0]: int(gauge.value)
            for peer in list(self._peers.values())
            if peer.hello.role == WORKER and peer.snapshot is not None
            for gauge in peer.snapshot.gauges
            if gauge.name == _BASE
        }

    def retire_absent(self) -> None:
        """Fold the counts of processes that have been gone for long."""
        oldest_ns = self._clock.monotonic_ns() - round(_RETIRE_AFTER_S * 1e9)
        for incarnation, since_ns in list(self._absent_since_ns.items()):
            if since_ns < oldest_ns:
                del self._absent_since_ns[incarnation]
                self.merger.retire(incarnation)

    def lost(self, peer: Peer) -> None:
        """Forget a link; the counts stay until the process has certainly been replaced."""
        if self._peers.get(peer.hello.identity) is peer:
            del self._peers[peer.hello.identity]
            if peer.hello.role == WORKER and peer.snapshot is not None:
                snapshot = peer.snapshot
                loading = [one.variant for one in snapshot.variants if one.state == _LOADING]
                self.deaths.ran(peer.hello.identity, snapshot.pid, loading)
            self._absent_since_ns[peer.hello.incarnation] = self._clock.monotonic_ns()
        self.changed()

    def _accept(self, connection: Connection) -> Peer:
        peer = Peer(self, connection)
        if self.plan is not None:
            # First: a link that this breaks is nobody's, and nobody is told of its end.
            connection.send(PlanPush(self.plan))
        before = self._peers.get(peer.hello.identity)
        self._peers[peer.hello.identity] = peer
        self._absent_since_ns.pop(peer.hello.incarnation, None)
        if before is not None and before.hello.incarnation != peer.hello.incarnation:
            self.merger.retire(before.hello.incarnation)
            before.connection.close()
        self.changed()
        return peer


def _ignore(incarnation: str, evidence: Evidence) -> None:
    del incarnation, evidence


def _refuse(connection: Connection, gateway: str, change: Change) -> None:
    del gateway
    _not_yet(connection, change)


def _not_yet(connection: Connection, question: Change | Report) -> None:
    connection.send(Fail(question.id, NotReady.code, "control is starting", _RETRY_AFTER_S))
