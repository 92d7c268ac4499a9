"""The link to one worker: what it can answer, and what it was asked."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from salver.core.clock import Clock
from salver.core.cohort import Cohort, Piece
from salver.core.errors import NotReady, SalverError, WireError, from_code
from salver.core.handler import answer_jointly
from salver.core.request import InferenceResponse, JointResponse
from salver.engine.client.cohort import (
    cohorts,
    goes_together,
    infer_cohort,
    infer_many,
    joint_response,
)
from salver.engine.client.crash import Death
from salver.engine.client.held import Held, HeldCohorts
from salver.engine.client.pending import Pending, VariantRoute, deliver, tensors_of
from salver.engine.client.running import Running
from salver.engine.client.signs import Signs
from salver.observe.logs import get_logger
from salver.wire.address import folder_of
from salver.wire.connection import Connection
from salver.wire.ends import is_noted
from salver.wire.framing import Buffer
from salver.wire.messages import (
    ANSWERING_STATES,
    FIRST_COHORT_VERSION,
    FIRST_TERSE_VERSION,
    BatchStarted,
    Cancel,
    Chunk,
    ChunkMany,
    Credit,
    Drain,
    Fail,
    Hello,
    Message,
    Snapshot,
    Watch,
    WorkerPlan,
)
from salver.wire.pings import Ping
from salver.wire.transport import LinkOptions, connect

log = get_logger(__name__)

QUARANTINE: Final = "quarantine"
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.05
_NOT_RUN: Final = ("draining", "not_ready", "memory_budget_exceeded")
_FAILED: Final = "failed"
_RETRY_AFTER_S: Final = 1.0
_ON_THE_WAY: Final = ("loading", "reloading")
_LAZY: Final = frozenset(("ready", "lazy", "loading"))


class Owner(Protocol):
    """Who decides what happens to requests that a link could not finish."""

    def finished(self, pending: Pending) -> bool:
        """Take note that a request gets its final answer; False if it has had one."""
        ...

    def held_apart(self, pending: Pending) -> None:
        """Take note that a request of a cohort is by itself from now on."""
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

    def failed(self, link: "WorkerLink", errors: Mapping[str, SalverError]) -> None:
        """Take note that a worker that was started on demand cannot answer for some versions."""
        ...


class WorkerLink:
    """Keeps a connection to one worker, for as long as the plan names it.

    To one that runs on demand it connects when somebody asks for that with ``wake``.
    """

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
        self.on_demand = worker.on_demand
        # Quarantine loads a model when the first request for it comes.
        self._answering = _LAZY if worker.kind == QUARANTINE else ANSWERING_STATES
        self.pending: dict[int, Pending] = {}
        self.held = HeldCohorts()
        self.ready: frozenset[str] = frozenset()
        self.pid = 0
        self._hello = hello
        self._owner = owner
        self._clock = clock
        self._connection: Connection | None = None
        self._gathers = gathers
        self._folder = folder_of(worker.address)
        self.signs = Signs(self._folder, worker.id)
        self._watches = watches
        self.running = Running(self._folder, worker.id)
        self._joins = self._is_terse = False
        self._alone = True
        self._turn: list[Pending] = []
        self._loop = asyncio.get_running_loop()
        self._last_id = 0
        self._lost = asyncio.Event()
        self._wanted = asyncio.Event()
        self._leaving = False
        self._failed: dict[str, SalverError] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Tell whether requests can be sent."""
        return self._connection is not None

    @property
    def open_count(self) -> int:
        """Requests without a final answer."""
        return len(self.pending) + self.held.members

    @property
    def death(self) -> Death | None:
        """The end of the worker's last process, if anybody notes how it ends."""
        folder = self._folder
        if folder is None or not is_noted(folder, self.identity):
            return None
        return Death(folder, self.identity, self.pid)

    def can_answer(self, variant: str) -> bool:
        """Tell whether the worker answers for a version now, or would if it were started."""
        return variant in self.ready or (self.on_demand and self._connection is None)

    def update(self, worker: WorkerPlan) -> None:
        """Take over whether the worker runs on demand."""
        self.on_demand = worker.on_demand
        if not self.on_demand:
            self._wanted.set()

    def wake(self, variant: str) -> SalverError | None:
        """Have the worker started; returns why it cannot answer if it just said so."""
        if self._connection is None or self._leaving:
            self._wanted.set()
            return None
        return self._failed.get(variant)

    def close_if_left(self) -> None:
        """Close the link to a worker that wants to leave, when all it had was answered."""
        if self._leaving and not self.open_count and self._connection is not None:
            self._connection.close()

    def unstarted(self) -> list[Pending]:
        """Return the requests that the worker has not begun with, each by itself from now on."""
        for held in self.held:
            self.take_apart(held)
        noted = self.running.noted()
        return [one for one in self.pending.values() if not one.started and one.id not in noted]

    @property
    def takes_cohorts(self) -> bool:
        """Tell whether the worker understands them."""
        return self._joins

    def start(self, timeout_s: float, options: LinkOptions) -> None:
        """Connect, and reconnect whenever the worker comes back or is wanted again."""
        if not self.on_demand:
            self._wanted.set()
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
        pending.context.worker = self.identity
        pending.started = False
        pending.attempts += 1
        alone = self._alone and not self.open_count
        if alone:
            connection.queue(pending.infer(self._clock.monotonic_ns()), pending.buffers())
            self.pending[pending.id] = pending
            connection.flush()
            return
        if not (self._joins and goes_together(pending)):
            connection.send(pending.infer(self._clock.monotonic_ns()), pending.buffers())
            self.pending[pending.id] = pending
            return
        self.pending[pending.id] = pending
        turn = self._turn
        if not turn:
            self._loop.call_soon(self._flush)
        turn.append(pending)

    def send_cohort(self, cohort: Cohort, route: VariantRoute) -> None:
        """Queue a cohort for ``flush``; raises ``SalverError`` when it cannot be sent as it is."""
        connection = self._connection
        if connection is None:
            raise NotReady(f"worker {self.identity} is not connected", retry_after_s=1.0)
        first = self._last_id + 1
        ids = tuple(range(first, first + len(cohort)))
        now_ns = self._clock.monotonic_ns()
        message, payload = infer_cohort(cohort, ids, now_ns, terse=self._is_terse)
        connection.queue(message, (payload,))
        self._last_id = ids[-1]
        cohort.context.worker = self.identity
        held = Held(cohort, route, ids)
        self.held.add(held)
        cohort.when_apart = partial(self.take_apart, held)

    def flush(self) -> None:
        """Send what was queued."""
        if self._connection is not None:
            self._connection.flush()

    def take_apart(self, held: Held) -> None:
        """Hold each open member of a cohort by itself from now on."""
        self.held.remove(held)
        held.cohort.when_apart = None
        ids = held.ids[held.start :]
        members = held.cohort.take_apart(held.start)
        for request_id, (request, context, responder) in zip(ids, members, strict=True):
            pending = Pending(request, context, responder, held.route, request_id, self, 1)
            pending.started = held.started
            self.pending[request_id] = pending
            self._owner.held_apart(pending)

    def _flush(self) -> None:
        """Send what was gathered in this turn of the loop, cohort by cohort."""
        turn, self._turn = self._turn, []
        # Who asks one by one need not wait for company that does not come.
        self._alone = len(turn) <= 1
        connection, now_ns = self._connection, self._clock.monotonic_ns()
        if connection is None:
            return
        # What has moved to another worker since has an id of that one's.
        waiting = [one for one in turn if self.pending.get(one.id) is one and not one.done]
        for cohort in cohorts(waiting) if len(waiting) > 1 else (waiting,):
            try:
                if len(cohort) > 1:
                    connection.queue(*infer_many(cohort, now_ns, terse=self._is_terse))
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
            self.running.give_up(pending)

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take an answer, or news of what the worker does."""
        if type(message) is Ping:
            self.signs.replied = True
            return
        self.signs.heard = True
        if type(message) is ChunkMany:
            self._chunks(message, payload)
        elif type(message) is Chunk:
            self._chunk(message, payload)
        elif type(message) is BatchStarted:
            self._started(message.ids)
        elif isinstance(message, Fail):
            self._fail(message)
        elif isinstance(message, Snapshot):
            self._told(message)
        elif isinstance(message, Drain):
            self._leaving, self.ready = True, frozenset()
            self.close_if_left()

    def _told(self, snapshot: Snapshot) -> None:
        """Take note of which versions can answer and which never will."""
        if self._leaving:
            return
        before, self.pid = self.ready, snapshot.pid
        self.signs.loads = any(item.state in _ON_THE_WAY for item in snapshot.variants)
        self.ready = frozenset(
            [item.variant for item in snapshot.variants if item.state in self._answering]
        )
        if self.ready - before:
            self._owner.usable(self)
        self._failed = {
            item.variant: from_code(item.code, item.error, _RETRY_AFTER_S)
            for item in snapshot.variants
            if item.state == _FAILED
        }
        if self._failed and self.on_demand:
            self._owner.failed(self, self._failed)

    def on_lost(self, error: WireError | None) -> None:
        """Hand the open requests to the owner."""
        self._connection = None
        self._joins = self._is_terse = False
        self.signs.forget()
        self._turn = []
        self.ready = frozenset()
        self._leaving, self._failed = False, {}
        for held in self.held:
            self.take_apart(held)
        pending, self.pending = list(self.pending.values()), {}
        self.running.end(pending)
        if pending:
            log.warning(
                "worker_lost", worker=self.identity, requests=len(pending), cause=str(error or "")
            )
        self._owner.lost(self, pending)
        self._lost.set()

    def _watch(self, connection: Connection) -> None:
        """Have the worker note its batches in shared memory, where both can have the same."""
        name = self.running.watch() if self._watches else ""
        if name:
            connection.send(Watch(name))

    def _abort(self, error: WireError) -> None:
        if self._connection is not None:
            self._connection.abort(error)

    def _started(self, ids: tuple[int, ...]) -> None:
        position = 0
        while position < len(ids):
            found = self.held.find(ids[position:])
            for held, stop in found:
                position += stop - held.start
                if stop == len(held.ids):
                    held.started = True
                else:
                    self.take_apart(held)
                    self._mark(held.ids[held.start : stop])
            if not found:
                self._mark(ids[position : position + 1])
                position += 1

    def _mark(self, ids: Sequence[int]) -> None:
        for request_id in ids:
            pending = self._single(request_id)
            if pending is not None:
                pending.started = True
            else:
                self.running.start(request_id)

    def _single(self, request_id: int) -> Pending | None:
        """Return an open request, by itself if it was one of a cohort until now."""
        pending = self.pending.get(request_id)
        if pending is None and self.held:
            held = self.held.having(request_id)
            if held is not None:
                self.take_apart(held)
                pending = self.pending.get(request_id)
        return pending

    def _chunks(self, message: ChunkMany, payload: Buffer) -> None:
        try:
            response = joint_response(message, payload)
        except WireError as error:
            self._abort(error)
            return
        ids, position = message.ids, 0
        held = self.held.whole(ids)
        if held is not None:
            deliver(held.cohort.audience.answer, [self._answered(held, len(ids))], response)
            return
        while position < len(ids):
            start, found = position, self.held.find(ids[position:] if position else ids)
            if found:
                pieces = [self._answered(held, stop) for held, stop in found]
                position += sum([piece.stop - piece.start for piece in pieces])
                part = response.part(start, position)
                deliver(found[0][0].cohort.audience.answer, pieces, part)
            else:
                position = self._end_of_singles(ids, position)
                self._singles(ids[start:position], response.part(start, position))

    def _answered(self, held: Held, stop: int) -> Piece:
        held.route.release(stop - held.start, self._clock.monotonic_ns())
        piece = self.held.advance(held, stop)
        if stop == len(held.ids):
            held.cohort.when_apart = None
        return piece

    def _end_of_singles(self, ids: tuple[int, ...], position: int) -> int:
        """Return where the next cohort begins, as far as these ids go."""
        if not self.held:
            return len(ids)
        self._single(ids[position])
        position += 1
        while position < len(ids) and ids[position] in self.pending:
            position += 1
        return position

    def _singles(self, ids: Sequence[int], response: JointResponse) -> None:
        self.running.answered(ids)
        known, finished = self.pending, self._owner.finished
        responders = [
            pending.responder
            if (pending := known.pop(request_id, None)) is not None and finished(pending)
            else None
            for request_id in ids
        ]
        deliver(answer_jointly, responders, response)

    def _chunk(self, chunk: Chunk, payload: Buffer) -> None:
        pending = self._single(chunk.id)
        if pending is None:
            if chunk.final:
                self.running.answered((chunk.id,))
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
                pending.send(response, final=True)
            return
        pending.chunks += 1
        pending.send(response, final=False)
        if self._connection is not None:
            self._connection.send(Credit(chunk.id, 1))

    def _fail(self, message: Fail) -> None:
        pending = self._single(message.id)
        if pending is None:
            self.running.answered((message.id,))
            return
        del self.pending[message.id]
        if message.code in _NOT_RUN and not pending.started:
            self._owner.refused(pending, message)
        elif self._owner.finished(pending):
            pending.fail(from_code(message.code, message.message, message.retry_after_s))

    def _accepted(self, connection: Connection) -> "WorkerLink":
        self._connection = self.signs.connection = connection
        if self.on_demand:
            self._wanted.clear()
        peer = connection.peer
        if peer is not None and peer.version >= FIRST_COHORT_VERSION:
            self._joins = self._gathers
            self._is_terse = peer.version >= FIRST_TERSE_VERSION
            self._watch(connection)
        return self

    async def _stay_connected(self, timeout_s: float, options: LinkOptions) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            self._lost.clear()
            await self._wanted.wait()
            try:
                await connect(self.address, self._hello, self._accepted, timeout_s, options)
            except SalverError:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            await self._lost.wait()
