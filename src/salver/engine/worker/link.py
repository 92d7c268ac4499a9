"""One gateway's link into a worker."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from salver.core.errors import NotReady, SalverError, WireError
from salver.engine.ledger import Ledger
from salver.engine.worker.job import Job, Reply
from salver.engine.worker.refusals import RETRY_AFTER_S
from salver.observe.logs import get_logger
from salver.wire.connection import Connection
from salver.wire.framing import Buffer
from salver.wire.messages import (
    FIRST_COHORT_VERSION,
    FIRST_TERSE_VERSION,
    BatchStarted,
    Cancel,
    Credit,
    Fail,
    Infer,
    InferMany,
    Message,
    Watch,
)
from salver.wire.pings import Ping

log = get_logger(__name__)


class Host(Protocol):
    """What a link needs of a loaded version."""

    def accept(self, reply: Reply, infer: Infer, payload: Buffer) -> Job:
        """Take a request over."""
        ...

    def accept_many(self, reply: Reply, message: InferMany, payload: Buffer) -> None:
        """Take a cohort over; raises ``WireError`` for one that does not add up."""
        ...

    def run_now(self) -> None:
        """Begin with what waits, if it waits for the end of the reading."""
        ...


Hosts = Callable[[str], Host | None]


class GatewayLink:
    """Receiver of one gateway's messages and reply of its jobs.

    ``joins`` allows answers that are joint; ``folder`` is where ledgers lie, None for no ledger;
    ``is_only`` tells whether this is the only link of the worker: then nobody else could add to
    what has come in this turn.
    """

    def __init__(
        self,
        connection: Connection,
        hosts: Hosts,
        closed: Callable[["GatewayLink"], None],
        *,
        joins: bool,
        folder: Path | None,
        is_only: Callable[[], bool],
    ) -> None:
        self.connection = connection
        self._hosts = hosts
        self._closed = closed
        self._jobs: dict[int, Job] = {}
        self._told: set[int] = set()
        self._touched: dict[str, Host] = {}
        self.is_reading = is_only
        # Every answer passes through these two; there is nothing to add to the connection's own.
        self.queue, self.flush = connection.queue, connection.flush
        connection.on_read_end = self._read_end
        self._folder = folder
        self._ledger: Ledger | None = None
        version = 0 if connection.peer is None else connection.peer.version
        self.joins = joins and version >= FIRST_COHORT_VERSION
        self.is_terse = version >= FIRST_TERSE_VERSION

    @property
    def open_jobs(self) -> int:
        """Requests without a final answer yet."""
        return len(self._jobs)

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take a request, a cancellation, or credit for a stream."""
        if type(message) is InferMany:
            self._many(message, payload)
        elif type(message) is Infer:
            host = self._hosts(message.variant)
            if host is None:
                cause = f"{message.variant} is not hosted here"
                self.send(Fail(message.id, NotReady.code, cause, RETRY_AFTER_S))
                return
            self._touched[message.variant] = host
            host.accept(self, message, payload)
        elif isinstance(message, Watch):
            self._watched(message.ledger)
        elif isinstance(message, Cancel):
            self._cancel_one(message.id)
        elif isinstance(message, Ping):
            self.connection.send(message)
        elif isinstance(message, Credit):
            job = self._jobs.get(message.id)
            if job is not None and job.flow is not None:
                job.flow.grant(message.chunks)

    def _read_end(self) -> None:
        """Let what came run at once, where that was agreed when it came."""
        touched = self._touched
        if touched:
            self._touched = {}
            for host in touched.values():
                host.run_now()

    def on_lost(self, error: WireError | None) -> None:
        """Nobody waits for this link's requests any more."""
        del error
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            self._cancel(job)
        self._closed(self)

    def _many(self, message: InferMany, payload: Buffer) -> None:
        host = self._hosts(message.variant)
        if host is None:
            cause = f"{message.variant} is not hosted here"
            for request_id in message.ids:
                self.send(Fail(request_id, NotReady.code, cause, RETRY_AFTER_S))
            return
        self._touched[message.variant] = host
        try:
            host.accept_many(self, message, payload)
        except WireError as error:
            self.connection.abort(error)

    def _watched(self, name: str) -> None:
        if self._folder is None or self._ledger is not None:
            return
        try:
            self._ledger = Ledger.open(self._folder, name)
        except (OSError, SalverError) as error:
            log.warning("no_ledger", cause=str(error))

    def announce(self, slot: int, ids: tuple[int, ...]) -> bool:
        """Let the gateway know what is about to run; False while it could not."""
        if self._ledger is not None and self._ledger.note(slot, ids):
            return True
        news = tuple([request_id for request_id in ids if request_id not in self._told])
        if news:
            self.connection.queue(BatchStarted(news))
            self.connection.flush()
            if not self.connection.is_direct:
                self._told.update(news)
                return False
        return not self.connection.is_blocked

    @property
    def is_blocked(self) -> bool:
        """Tell whether the gateway has stopped reading."""
        return self.connection.is_blocked

    def when_unblocked(self, callback: Callable[[], None]) -> None:
        """Call back once, when the gateway reads again or is gone."""
        self.connection.when_unblocked(callback)

    def send(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Send one message of an answer."""
        self.connection.send(message, buffers)

    def begin(self, job: Job) -> None:
        """Remember an accepted job, so that it can be cancelled."""
        self._jobs[job.ids[0]] = job

    def fail(self, job: Job, error: SalverError) -> None:
        """End a job with an error."""
        self.forget(job)
        for request_id in job.ids:
            self.connection.send(Fail(request_id, error.code, error.message, error.retry_after_s))

    def forget(self, job: Job) -> None:
        """Drop a job that has had its final answer."""
        self._jobs.pop(job.ids[0], None)
        if self._told:
            self._told.difference_update(job.ids)

    def _cancel_one(self, request_id: int) -> None:
        job = self._jobs.get(request_id)
        if job is None or job.count > 1:
            # Jobs of several requests are found by the first of them only, and rarely looked for.
            several = (one for one in self._jobs.values() if request_id in one.ids)
            job = next(several, None)
            if job is not None:
                job.cancel(request_id)
            return
        self._cancel(self._jobs.pop(request_id))

    @staticmethod
    def _cancel(job: Job | None) -> None:
        if job is None:
            return
        job.cancelled = True
        if job.flow is not None:
            job.flow.cancel()
