"""Answers equal requests alike: from memory, or with the answer that is on its way."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from salver.core.clock import Clock
from salver.core.cohort import Cohort, many_of, one_by_one
from salver.core.context import RequestContext
from salver.core.errors import DeadlineExceeded, SalverError
from salver.core.handler import Handler, Responder
from salver.core.request import InferenceRequest, InferenceResponse, Parameters
from salver.core.tensor import Tensor
from salver.observe.meter import Meter
from salver.wire.messages import Plan

_HIT, _JOINED, _MISS = "hit", "joined", "miss"
_DIGEST_BYTES = 32
_ENTRY_BYTES = 512
_LARGEST_SHARE = 8
_MAX_WAITERS = 4096
_OF_THE_CALL = frozenset({"priority", "timeout"})
_SCALARS = (str, int, float, bool, type(None))


class Kept(msgspec.Struct, frozen=True, eq=False):
    """One answer; ``size_bytes`` is what keeping it takes, ``version`` the artifact's digest."""

    version: str
    outputs: list[Tensor]
    parameters: Parameters | None
    size_bytes: int

    def response(self) -> InferenceResponse:
        """Return the answer once more. It has no timing, since nothing ran for it."""
        return InferenceResponse([*self.outputs], None, self.parameters and {**self.parameters})


class AnswerStore:
    """Answers by key, least recently used first, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.evicted = 0
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()

    def get(self, key: bytes) -> Kept | None:
        """Return an answer, which is the most recently used one from now on."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def put(self, key: bytes, version: str, response: InferenceResponse) -> None:
        """Keep a copy, unless it is too large a share of what may be kept."""
        outputs = response.outputs
        size = _ENTRY_BYTES * (1 + len(outputs)) + sum(tensor.size_bytes for tensor in outputs)
        if size > self.max_bytes // _LARGEST_SHARE:
            return
        # A view would keep the whole message alive that the answer came in.
        copies = [Tensor(t.name, t.datatype, t.shape, bytes(t.buffer)) for t in outputs]
        parameters = response.parameters and {**response.parameters}
        self._drop(key)
        self._kept[key] = Kept(version, copies, parameters, size)
        self.held_bytes += size
        while self.held_bytes > self.max_bytes:
            self._drop(next(iter(self._kept)))
            self.evicted += 1

    def keep_only(self, versions: set[str]) -> None:
        """Forget the answers of all other versions."""
        for key in [key for key, kept in self._kept.items() if kept.version not in versions]:
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.held_bytes -= kept.size_bytes


class _Waiter(msgspec.Struct, eq=False):
    """A caller of a flight."""

    context: RequestContext
    responder: Responder


class Flight:
    """A request on its way, and everybody who waits for its answer; the responder of the engine.

    Nobody in it has less time than its context's deadline. It is given up when all have left; when
    its time has passed, those with more time go on in a new attempt. Of those who get one end all
    but the first are marked in their contexts, since no run was theirs.
    """

    def __init__(
        self, cache: "ResponseCache", key: bytes, version: str, request: InferenceRequest
    ) -> None:
        self._cache = cache
        self._key = key
        self._version = version
        self._request = request
        self._context: RequestContext | None = None
        self._waiters: list[_Waiter] = []
        self._has_begun = False

    def takes(self, context: RequestContext) -> bool:
        """Tell whether one more caller may wait for this answer."""
        own = self._context
        has_time = own is not None and context.deadline_ns >= own.deadline_ns
        return has_time and not self._has_begun and len(self._waiters) < _MAX_WAITERS

    def join(self, context: RequestContext, responder: Responder) -> None:
        """Let a caller wait."""
        waiter = _Waiter(context, responder)
        self._waiters.append(waiter)
        context.on_cancel = lambda: self._left(waiter)

    def begin(self) -> None:
        """Ask the engine on behalf of all who wait, with the time of the one who has the least."""
        first = min((waiter.context for waiter in self._waiters), key=_deadline_ns)
        self._context = context = msgspec.structs.replace(first, on_cancel=None, cancelled=False)
        self._cache.inner(self._request, context, self)

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Give an answer, or a part of one, to everybody; a whole one is kept."""
        if final:
            self._cache.ended(self._key, self)
            if not self._has_begun:
                keeping_ns = self._cache.keep(self._key, self._version, response)
                if self._waiters:
                    self._waiters[0].context.memory_ns += keeping_ns
        self._has_begun = True
        parameters, timing = response.parameters, response.timing
        self._name_worker()
        # One that gets a part may leave at once, and must not hide the next from the loop.
        for index, waiter in enumerate(self._ended() if final else [*self._waiters]):
            waiter.context.joined = index > 0
            own = parameters and {**parameters}
            waiter.responder.send(InferenceResponse([*response.outputs], timing, own), final=final)
            timing = None

    def fail(self, error: SalverError) -> None:
        """End everybody's request, but for those who have more time than this attempt had."""
        patient: list[_Waiter] = []
        if isinstance(error, DeadlineExceeded) and not self._has_begun:
            assert self._context is not None
            deadline_ns = self._context.deadline_ns
            patient = [w for w in self._waiters if w.context.deadline_ns > deadline_ns]
            self._waiters = [w for w in self._waiters if w.context.deadline_ns <= deadline_ns]
        else:
            self._cache.ended(self._key, self)
        self._name_worker()
        failed = self._ended()
        self._waiters = patient
        if patient:
            self.begin()
        else:
            self._cache.ended(self._key, self)
        for index, waiter in enumerate(failed):
            waiter.context.joined = index > 0
            waiter.responder.fail(error)

    def _name_worker(self) -> None:
        """Let the first, whose exchange is that of the run, say which worker had it."""
        if self._waiters and self._context is not None:
            self._waiters[0].context.worker = self._context.worker

    def _ended(self) -> list[_Waiter]:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.context.on_cancel = None
        return waiters

    def _left(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            waiter.context.joined = waiter is not self._waiters[0]
            self._waiters.remove(waiter)
            if not self._waiters and self._context is not None:
                self._cache.ended(self._key, self)
                self._context.cancel()


class ResponseCache:
    """Handler before the engine; does something for endpoints only that were deployed with it.

    Requests are equal when version, tenant, inputs to the last byte, wanted outputs and parameters
    are, but for priority and timeout. Errors and streams are never kept, nor is anything of
    requests that may not run twice.
    """

    def __init__(self, inner: Handler, meter: Meter, max_bytes: int, clock: Clock) -> None:
        self.inner = inner
        self._inner_many = many_of(inner)
        self._meter = meter
        self._clock = clock
        self._store = AnswerStore(max_bytes)
        self._flights: dict[bytes, Flight] = {}
        self._versions: dict[tuple[str, str], str] = {}

    def apply(self, plan: Plan) -> None:
        """Know from now on which endpoints keep answers, and forget those of others."""
        self._versions = {
            (endpoint.name, variant.id): variant.digest
            for endpoint in plan.endpoints
            if endpoint.cache
            for variant in endpoint.variants
            if variant.idempotent
        }
        self._store.keep_only(set(self._versions.values()))
        self._count()

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer from memory, or wait for an equal request's answer, or pass on."""
        version = self._versions.get((request.endpoint, context.variant))
        if version is None:
            self.inner(request, context, responder)
            return
        begun_ns = self._clock.monotonic_ns()
        key = _key(version, request, context)
        if key is None:
            self.inner(request, context, responder)
            return
        kept = self._store.get(key)
        response = None if kept is None else kept.response()
        context.memory_ns = self._clock.monotonic_ns() - begun_ns
        if response is not None:
            self._add(request, _HIT)
            responder.send(response)
            return
        flight = self._flights.get(key)
        if flight is not None and flight.takes(context):
            self._add(request, _JOINED)
            flight.join(context, responder)
            return
        self._add(request, _MISS)
        if flight is not None:
            self.inner(request, context, responder)
            return
        flight = self._flights[key] = Flight(self, key, version, request)
        flight.join(context, responder)
        flight.begin()

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Pass on cohorts of endpoints that keep nothing, and look at the members of others.

        Those that go on are brought together again on the link to their worker.
        """
        whole: list[Cohort] = []
        for cohort in cohorts:
            if (cohort.request.endpoint, cohort.context.variant) in self._versions:
                one_by_one(self, cohort)
            else:
                whole.append(cohort)
        if whole:
            self._inner_many(whole)

    def ended(self, key: bytes, flight: Flight) -> None:
        """Let nobody join a flight any more."""
        if self._flights.get(key) is flight:
            del self._flights[key]

    def keep(self, key: bytes, version: str, response: InferenceResponse) -> int:
        """Keep an answer, if its version still is one whose answers are kept; return the time."""
        begun_ns = self._clock.monotonic_ns()
        if version in self._versions.values():
            before = self._store.evicted
            self._store.put(key, version, response)
            if self._store.evicted != before:
                evicted = self._store.evicted - before
                self._meter.add("salver_cache_evictions_total", (), evicted)
            self._count()
        return self._clock.monotonic_ns() - begun_ns

    def _add(self, request: InferenceRequest, result: str) -> None:
        self._meter.add("salver_cache_requests_total", (request.endpoint, result))

    def _count(self) -> None:
        self._meter.set("salver_cache_bytes", (), self._store.held_bytes)


def _key(version: str, request: InferenceRequest, context: RequestContext) -> bytes | None:
    """Return the digest of everything an answer depends on, None for what is never kept."""
    parameters = request.parameters or {}
    if not context.idempotent or parameters.get("stream"):
        return None
    said = sorted((name, value) for name, value in parameters.items() if name not in _OF_THE_CALL)
    if not all(isinstance(value, _SCALARS) for _, value in said):
        return None
    heads = [(t.name, t.datatype, t.shape, t.size_bytes) for t in request.inputs]
    # Numbers that are equal in Python but differ in type are told apart by their encoding.
    head = msgspec.msgpack.encode((version, context.tenant, request.outputs, said, heads))
    digest = hashlib.blake2b(head, digest_size=_DIGEST_BYTES)
    for tensor in request.inputs:
        digest.update(tensor.buffer)
    return digest.digest()


def _deadline_ns(context: RequestContext) -> int:
    return context.deadline_ns
