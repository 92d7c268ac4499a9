"""The link to one worker: what it can answer, and what it was asked."""

import asyncio
from pathlib import Path
from typing import Protocol

from salver.core.clock import Clock
from salver.core.errors import NotReady, SalverError, WireError, from_code
from salver.core.handler import answer_jointly
from salver.core.request import InferenceResponse
from salver.engine.client.cohort import (
    cohorts,
    goes_together,
    infer_many,
    joint_response,
)
from salver.engine.client.pending import Pending, tensors_of
from salver.engine.ledger import Ledger, new_name
from salver.observe.logs import get_logger
from salver.wire.address import UnixAddress, parse_address
from salver.wire.connection import Connection
from salver.wire.framing import Buffer
from salver.wire.messages import (
    FIRST_COHORT_VERSION,
    BatchStarted,
    Cancel,
    Chunk,
    ChunkMany,
    Credit,
    Fail,
    Hello,
    Message,
    Snapshot,
    Watch,
    WorkerPlan,
)
from salver.wire.transport import LinkOptions, connect

log = get_logger(__name__)

QUARANTINE = "quarantine"
# So many requests are worth a message of their own while the worker has little else to do.
_HEAD_START = 4
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.05
_NOT_RUN = ("draining", "not_ready")
_READY = frozenset(("ready",))
_LAZY = frozenset(("ready", "lazy", "loading"))


class Owner(Protocol):
    """Who decides what happens to requests that a link could not finish."""

    def finished(self, pending: Pending) -> bool:
        """Take note that a request gets its final answer; False if it has had one."""
        ...

    def unsendable(self, pending: Pending, error: Exception) -> None:
        """End a request that could not be sent as it is."""
        ...

    def refused(self, pending: Pending, error: Fail) -> None:
        """Decide about a request that the worker did not run."""
        ...

    def lost(self, link: "WorkerLink", pending: list[Pending]) -> None:
        """Decide about the requests of a worker that is gone."""
        ...

    def usable(self, link: "WorkerLink") -> None:
        """Take note that the link's worker can answer something it could not before."""
        ...


class WorkerLink:
    """Keeps a connection to one worker, for as long as the plan names it."""

    def __init__(
        self,
        worker: WorkerPlan,
        hello: Hello,
        owner: Owner,
        clock: Clock,
        *,
        gathers: bool = True,
        watches: bool = True,
    ) -> None:
        self.identity = worker.id
        self.address = worker.address
        # Quarantine loads a model when the first request for it comes.
        self._answering = _LAZY if worker.kind == QUARANTINE else _READY
        self.pending: dict[int, Pending] = {}
        self.ready: frozenset[str] = frozenset()
        self._hello = hello
        self._owner = owner
        self._clock = clock
        self._connection: Connection | None = None
        self._gathers = gathers
        self._watches = watches
        self._ledger: Ledger | None = None
        self._joins = False
        self._alone = True
        self._turn: list[Pending] = []
        self._loop = asyncio.get_running_loop()
        self._last_id = 0
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Tell whether requests can be sent."""
        return self._connection is not None

    def start(self, timeout_s: float, options: LinkOptions) -> None:
        """Connect, and reconnect whenever the worker comes back."""
        self._task = asyncio.create_task(self._stay_connected(timeout_s, options))

    def stop(self) -> None:
        """Close the link; requests without an answer are lost to the owner."""
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.close()

    def send(self, pending: Pending) -> None:
        """Ask the worker; raises ``SalverError`` when the request cannot be sent as it is."""
        connection = self._connection
        if connection is None:
            raise NotReady(f"worker {self.identity} is not connected", retry_after_s=1.0)
        self._last_id = pending.id = self._last_id + 1
        pending.link = self
        pending.started = False
        pending.attempts += 1
        alone = self._alone and not self.pending
        if alone or not (self._joins and goes_together(pending)):
            connection.send(pending.infer(self._clock.monotonic_ns()), pending.buffers())
            self.pending[pending.id] = pending
            if alone:
                connection.flush()
            return
        self.pending[pending.id] = pending
        turn = self._turn
        if not turn:
            self._loop.call_soon(self._flush)
        turn.append(pending)
        if len(turn) >= _HEAD_START and len(turn) * 2 >= len(self.pending):
            # The worker has no more to do than this: it can begin while the rest is being read.
            self._flush()

    def _flush(self) -> None:
        """Send what was gathered in this turn of the loop, cohort by cohort."""
        turn, self._turn = self._turn, []
        # Who asks one by one need not wait for company that does not come.
        self._alone = len(turn) <= 1
        connection, now_ns = self._connection, self._clock.monotonic_ns()
        if connection is None:
            return
        waiting = [pending for pending in turn if not pending.done]
        for cohort in cohorts(waiting) if len(waiting) > 1 else (waiting,):
            try:
                if len(cohort) > 1:
                    connection.queue(*infer_many(cohort, now_ns))
                elif cohort:
                    connection.queue(cohort[0].infer(now_ns), cohort[0].buffers())
            except Exception as error:  # whatever it was, its callers must be answered
                for pending in cohort:
                    self.pending.pop(pending.id, None)
                    self._owner.unsendable(pending, error)
        connection.flush()

    def cancel(self, pending: Pending) -> None:
        """Tell the worker that nobody waits for this request."""
        if self.pending.pop(pending.id, None) is not None and self._connection is not None:
            self._connection.send(Cancel(pending.id))

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take an answer, or news of what the worker does."""
        if type(message) is ChunkMany:
            self._chunks(message, payload)
        elif type(message) is Chunk:
            self._chunk(message, payload)
        elif type(message) is BatchStarted:
            pending = self.pending
            for request_id in message.ids:
                started = pending.get(request_id)
                if started is not None:
                    started.started = True
        elif isinstance(message, Fail):
            self._fail(message)
        elif isinstance(message, Snapshot):
            before = self.ready
            self.ready = frozenset(
                [item.variant for item in message.variants if item.state in self._answering]
            )
            if self.ready - before:
                self._owner.usable(self)

    def on_lost(self, error: WireError | None) -> None:
        """Hand the open requests to the owner."""
        self._connection, self._joins = None, False
        self._turn = []
        self.ready = frozenset()
        pending, self.pending = list(self.pending.values()), {}
        self._read_ledger(pending)
        if pending:
            log.warning(
                "worker_lost", worker=self.identity, requests=len(pending), cause=str(error or "")
            )
        self._owner.lost(self, pending)
        self._lost.set()

    def _watch(self, connection: Connection) -> None:
        """Have the worker note its batches in shared memory, where both can have the same."""
        address = parse_address(self.address)
        if not self._watches or not isinstance(address, UnixAddress):
            return
        try:
            name = new_name(self.identity)
            self._ledger = Ledger.create(Path(address.path).parent, name)
        except OSError as error:
            log.warning("no_ledger", worker=self.identity, cause=str(error))
        else:
            connection.send(Watch(name))

    def _read_ledger(self, pending: list[Pending]) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is None:
            return
        noted = ledger.noted() if pending else frozenset()
        for request in pending:
            request.started = request.started or request.id in noted
        ledger.close()

    def _abort(self, error: WireError) -> None:
        if self._connection is not None:
            self._connection.abort(error)

    def _chunks(self, message: ChunkMany, payload: Buffer) -> None:
        try:
            response = joint_response(message, payload)
        except WireError as error:
            self._abort(error)
            return
        known, finished = self.pending, self._owner.finished
        responders = [
            pending.responder
            if (pending := known.pop(request_id, None)) is not None and finished(pending)
            else None
            for request_id in message.ids
        ]
        answer_jointly(responders, response)

    def _chunk(self, chunk: Chunk, payload: Buffer) -> None:
        pending = self.pending.get(chunk.id)
        if pending is None:
            return
        try:
            tensors = tensors_of(chunk, payload)
        except WireError as error:
            self._abort(error)
            return
        response = InferenceResponse(tensors, chunk.timing, chunk.parameters)
        if chunk.final:
            del self.pending[chunk.id]
            if self._owner.finished(pending):
                pending.responder.send(response, final=True)
            return
        pending.chunks += 1
        pending.responder.send(response, final=False)
        if self._connection is not None:
            self._connection.send(Credit(chunk.id, 1))

    def _fail(self, message: Fail) -> None:
        pending = self.pending.pop(message.id, None)
        if pending is None:
            return
        if message.code in _NOT_RUN and not pending.started:
            self._owner.refused(pending, message)
        elif self._owner.finished(pending):
            pending.responder.fail(from_code(message.code, message.message, message.retry_after_s))

    def _accepted(self, connection: Connection) -> "WorkerLink":
        self._connection = connection
        peer = connection.peer
        if peer is not None and peer.version >= FIRST_COHORT_VERSION:
            self._joins = self._gathers
            self._watch(connection)
        return self

    async def _stay_connected(self, timeout_s: float, options: LinkOptions) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            self._lost.clear()
            try:
                await connect(self.address, self._hello, self._accepted, timeout_s, options)
            except SalverError:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            await self._lost.wait()
