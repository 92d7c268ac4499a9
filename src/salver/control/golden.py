"""No version gets its first request before its golden examples pass in the worker that has it."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import msgspec

from salver.artifact.golden import MAX_GOLDEN_BYTES, Golden, compare, parse_golden
from salver.control.desired import Desired, Observed
from salver.control.hosts import placement
from salver.control.hub import Hub
from salver.control.loads import AddressOf
from salver.core.errors import (
    CapacityError,
    SalverError,
    WireError,
    WorkerCrashed,
    fault_of,
    from_code,
)
from salver.core.tensor import AnyArray, Tensor
from salver.engine.client.pending import tensors_of
from salver.observe.logs import get_logger
from salver.registry.blobs import BlobStore
from salver.wire.connection import Connection
from salver.wire.framing import Buffer
from salver.wire.messages import (
    ANSWERING_STATES,
    PROTOCOL_VERSION,
    Chunk,
    Fail,
    Hello,
    Infer,
    Message,
    Plan,
    TensorHeader,
    VariantState,
)
from salver.wire.transport import connect

log = get_logger(__name__)

MAX_EXAMPLES = 100
_CONNECT_S = 5.0
_QUICK, _SLOW = 2, 3
_QUICK_TURN_S, _SLOW_TURN_S = 5.0, 60.0
_AGAIN_S = 1.0
_MAX_ENDS = 2
_CHECKING, _FAILED = "loading", "failed"


class Subject(NamedTuple):
    """One version in one process of a worker."""

    worker: str
    incarnation: str
    variant: str


class GoldenGate:
    """Shows versions as loading until their examples have passed, and as failed if they do not.

    Those that gateways route to already have passed. ``done`` is called when one is through.
    At most ``MAX_EXAMPLES`` of a version are asked, in turns: a few versions at a time, each in one
    worker. One that has taken a whole turn goes on among those that take long, so that others wait
    a short turn for it at most. One that has ended two processes, and nothing else can be why, is
    not asked again.
    """

    def __init__(
        self, blobs: BlobStore, hub: Hub, address_of: AddressOf, done: Callable[[], None]
    ) -> None:
        self._blobs = blobs
        self._hub = hub
        self._address_of = address_of
        self._done = done
        self._verdicts: dict[Subject, SalverError | None] = {}
        self._open: dict[Subject, asyncio.Task[None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._slow: set[str] = set()
        self._ends_before: dict[str, int] = {}
        self._quick_lane, self._slow_lane = asyncio.Semaphore(_QUICK), asyncio.Semaphore(_SLOW)

    def screen(self, desired: Sequence[Desired], plan: Plan) -> Observed:
        """Return what was observed, as far as the gate lets it be seen, and begin checks."""
        observed = self._hub.observed()
        routed = {variant.id for each in plan.endpoints for variant in each.variants}
        incarnations = self._hub.incarnations()
        seen: set[Subject] = set()
        workers = dict(observed.workers)
        for item in (one for wish in desired for one in wish.each() if one.version is not None):
            version = item.version
            assert version is not None
            if not version.manifest.golden or version.id in routed:
                continue
            for worker in placement(item, observed):
                state = workers.get(worker, {}).get(version.id)
                if state is None or state.state not in ANSWERING_STATES:
                    continue
                subject = Subject(worker, incarnations.get(worker, ""), version.id)
                seen.add(subject)
                shown = self._shown(subject, version.manifest.golden, state)
                workers[worker] = {**workers[worker], version.id: shown}
        self._forget(seen, incarnations.values(), observed)
        wanted = {one.version.id for wish in desired for one in wish.each() if one.version}
        self._slow &= wanted
        self._ends_before = {v: ends for v, ends in self._ends_before.items() if v in wanted}
        for variant in [v for v, lock in self._locks.items() if not lock.locked()]:
            if variant not in wanted:
                del self._locks[variant]
        return msgspec.structs.replace(observed, workers=workers)

    async def stop(self) -> None:
        """End every check."""
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _shown(self, subject: Subject, golden: str, state: VariantState) -> VariantState:
        variant = subject.variant
        if subject not in self._verdicts:
            if subject not in self._open:
                ends = self._hub.deaths.of(variant, 0)
                ends -= self._ends_before.setdefault(variant, ends)
                if ends >= _MAX_ENDS:
                    told = f"{variant} ended {ends} processes when it was asked its golden examples"
                    return _failed(state, WorkerCrashed(f"{told}; see 'salver logs'"))
                self._open[subject] = asyncio.create_task(self._check(subject, golden))
            return msgspec.structs.replace(state, state=_CHECKING)
        error = self._verdicts[subject]
        if error is None:
            return state
        return _failed(state, error)

    def _forget(
        self, seen: set[Subject], incarnations: Collection[str], observed: Observed
    ) -> None:
        """Forget verdicts about processes that are gone, and about what they have no longer.

        A version that is loaded once more is asked anew: what failed before may be mended.
        """
        for subject in list(self._verdicts):
            is_gone = subject.incarnation not in incarnations and subject not in seen
            if is_gone or _is_unloaded(subject, observed):
                del self._verdicts[subject]

    async def _check(self, subject: Subject, golden: str) -> None:
        verdict: SalverError | None = None
        pid = self._hub.pids().get(subject.incarnation)
        try:
            await self._ask_all(subject, golden)
        except (WireError, CapacityError, OSError) as error:
            # The worker is gone or has no time; it or whoever comes after it is asked anew. So it
            # is when control has no memory or no file left, which says nothing of the version.
            log.warning("golden_not_asked", variant=subject.variant, cause=str(error))
            await asyncio.sleep(_AGAIN_S)
            if pid is not None and subject.incarnation not in self._hub.connected():
                self._hub.deaths.ran(subject.worker, pid, [subject.variant])
            del self._open[subject]
            self._done()
            return
        except SalverError as error:
            verdict = error
            log.error("golden_failed", variant=subject.variant, cause=error.message)
        except Exception as fault:  # a fault of ours must not let the version through
            log.exception("golden_failed", variant=subject.variant)
            verdict = fault_of(fault)
        self._verdicts[subject] = verdict
        del self._open[subject]
        self._done()

    async def _ask_all(self, subject: Subject, golden: str) -> None:
        """Ask in turns; raises as ``run_examples``, and ``WireError`` if a turn has no answer."""
        variant, done, is_over = subject.variant, 0, False
        lock = self._locks.setdefault(variant, asyncio.Lock())
        while not is_over:
            async with lock:
                is_slow = variant in self._slow
                async with self._slow_lane if is_slow else self._quick_lane:
                    turn_s = _SLOW_TURN_S if is_slow else _QUICK_TURN_S
                    # Read anew in each turn, so that those that wait take no memory.
                    data = await asyncio.to_thread(self._blobs.read, golden, MAX_GOLDEN_BYTES)
                    examples = (await asyncio.to_thread(parse_golden, data))[:MAX_EXAMPLES]
                    address, left = self._address_of(subject.worker), examples[done:]
                    answered = await run_examples(address, variant, left, turn_s)
                    is_over = answered == len(left)
                    if is_slow and not (answered or is_over):
                        raise WireError(f"no answer to a golden example within {turn_s:g} s")
                    if not is_over:
                        self._slow.add(variant)
            done += answered


def _is_unloaded(subject: Subject, observed: Observed) -> bool:
    """Tell whether a worker that says what it has does not say so of this version."""
    states = observed.workers.get(subject.worker)
    if states is None:
        return False
    state = states.get(subject.variant)
    return state is None or state.state not in ANSWERING_STATES


def _failed(state: VariantState, error: SalverError) -> VariantState:
    return msgspec.structs.replace(state, state=_FAILED, code=error.code, error=error.message)


async def run_examples(
    address: str, variant: str, examples: Sequence[Golden], turn_s: float
) -> int:
    """Ask a worker each example, as a gateway would, and return how many it answered in time.

    Raises ``GoldenMismatch``, what the model failed with, or ``WireError``.
    """
    asker, answered = _Asker(), 0
    hello = Hello(PROTOCOL_VERSION, "gateway", "control-golden", "golden")
    connection = await connect(address, hello, lambda _: asker, _CONNECT_S)
    try:
        async with asyncio.timeout(turn_s):
            for number, example in enumerate(examples, start=1):
                outputs = await asker.ask(connection, number, variant, example)
                compare(example.outputs, outputs, example.rtol, example.atol)
                answered = number
    except TimeoutError:
        pass
    finally:
        connection.close()
    return answered


class _Asker:
    """Receiver of one answer at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[dict[str, AnyArray]] | None = None

    async def ask(
        self, connection: Connection, number: int, variant: str, example: Golden
    ) -> dict[str, AnyArray]:
        """Return what the model answers, however long that takes."""
        self._answer = asyncio.get_running_loop().create_future()
        headers = tuple(
            TensorHeader(t.name, t.datatype, t.shape, t.size_bytes) for t in example.inputs
        )
        infer = Infer(number, variant, headers, round(_SLOW_TURN_S * 1e6), f"golden-{number}")
        connection.send(infer, [tensor.buffer for tensor in example.inputs])
        return await self._answer

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take the answer; what else a worker says does not matter here."""
        answer = self._answer
        if answer is None or answer.done():
            return
        if isinstance(message, Fail):
            answer.set_exception(from_code(message.code, message.message))
        elif isinstance(message, Chunk):
            try:
                answer.set_result(_arrays(tensors_of(message, payload)))
            except SalverError as error:
                answer.set_exception(error)

    def on_lost(self, error: WireError | None) -> None:
        """End the question that is open."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or WireError("the worker closed the link"))


def _arrays(tensors: list[Tensor]) -> dict[str, AnyArray]:
    return {tensor.name: tensor.array() for tensor in tensors}
