"""Circuit breakers on the request path: what opens them, who is refused, how they close."""

from collections.abc import Callable, Iterator

import grpc
import orjson
import pytest

from salver.core.clock import ManualClock
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.errors import (
    CircuitOpen,
    DeadlineExceeded,
    MemoryLimitExceeded,
    ModelFailed,
    NonFiniteOutput,
    Overloaded,
    SalverError,
    ValueRejected,
    WorkerCrashed,
)
from salver.core.exchange import Exchange, ExchangeRing
from salver.core.handler import Responder
from salver.core.request import InferenceRequest, InferenceResponse
from salver.gateway.limits.breaker import BreakerPolicy
from salver.gateway.limits.circuits import CircuitBreakers
from salver.observe.meter import Meter
from salver.observe.outcomes import STALLED_NS, Outcomes
from tests.gateway.grpc.calls import infer, infer_request, two_rows
from tests.gateway.inprocess import PLAN, RunningServer, exchange_bytes, post, split_reply
from tests.gateway.test_gather import INFER, Clients, Engine, ask, body, warm

POLICY = BreakerPolicy(min_requests=5, probes=2)
VARIANT = "identity-fp32:1"


class Faulty(Engine):
    """Engine that fails every request as it is told to; ``kept`` are not answered yet."""

    def __init__(self) -> None:
        super().__init__()
        self.error: SalverError | None = None
        self.keep = False
        self.kept: list[Callable[[], None]] = []

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Answer, fail or keep."""
        if self.keep:
            self.kept.append(lambda: Engine.__call__(self, request, context, responder))
        elif self.error is not None:
            responder.fail(self.error)
        else:
            super().__call__(request, context, responder)


class Silent:
    """Responder of somebody who is not looked at."""

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Need nothing."""

    def fail(self, error: SalverError) -> None:
        """Need nothing."""


class Guarded:
    """A server whose last handler is behind circuit breakers, and a clock for them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.engine = Faulty()
        self.meter = Meter()
        self.circuits = CircuitBreakers(self.engine, POLICY, self.clock, self.meter)
        self.circuits.apply(PLAN)
        self.server = RunningServer(last=self.circuits)

    def begin(self) -> None:
        """Let the breakers hear of finished exchanges."""
        ring: ExchangeRing = self.server.ring
        ring.subscribe(self.circuits.probed)
        ring.subscribe(Outcomes(self.circuits.counted))

    def ask(self, path: str = INFER) -> tuple[int, str, dict[str, str]]:
        """Return status, code and fields of one request, and let observers know of it."""
        status, fields, text = split_reply(exchange_bytes(self.server.port, post(path, body(10))))
        self.server.run(self.server.ring.drain)
        return status, orjson.loads(text).get("code", ""), fields

    def break_it(self) -> None:
        """Let requests fail until the breaker opens."""
        self.engine.error = WorkerCrashed("it died")
        for _ in range(POLICY.min_requests):
            if not self.is_open:
                assert self.ask()[1] == "worker_crashed"
        assert self.is_open

    @property
    def is_open(self) -> bool:
        """Tell whether the breaker is open or half-open."""
        return bool(self.circuits._tripped)


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    """Give a server behind breakers."""
    made = Guarded()
    with made.server:
        made.begin()
        yield made


def test_a_variant_that_fails_everybody_is_given_a_pause(guarded: Guarded) -> None:
    """Requests are refused with 503 and the time to wait, without reaching the engine.

    Other variants are served; after the pause probes go through, and when they end well all do.
    """
    guarded.break_it()
    guarded.engine.error = None
    reached = len(guarded.engine.singles)
    guarded.clock.advance(1.5)
    status, code, fields = guarded.ask()
    assert (status, code, fields["retry-after"]) == (503, "circuit_open", "4")
    assert len(guarded.engine.singles) == reached
    assert guarded.ask("/v2/models/identity-fp64/infer")[1] != "circuit_open"
    guarded.clock.advance(3.5)
    for _ in range(POLICY.probes):
        assert guarded.is_open
        assert guarded.ask()[0] == 200
    assert not guarded.is_open
    counts = {sample.name: sample.value for sample in guarded.meter.counters()}
    gauges = {sample.name: sample.value for sample in guarded.meter.gauges()}
    assert counts["salver_breaker_openings_total"] == 1
    assert gauges["salver_breakers_open"] == 0


def test_running_out_of_memory_is_a_failure_too(guarded: Guarded) -> None:
    """A variant that needs more memory than it may have, each time, is given a pause as well."""
    guarded.engine.error = MemoryLimitExceeded("more memory was needed")
    for _ in range(POLICY.min_requests):
        assert guarded.ask()[1] == "memory_limit_exceeded"
    assert guarded.ask()[1] == "circuit_open"


def test_a_failed_probe_opens_it_again(guarded: Guarded) -> None:
    """The pause is then twice as long."""
    guarded.break_it()
    guarded.clock.advance(5.0)
    assert guarded.ask()[1] == "worker_crashed"
    assert guarded.ask()[2]["retry-after"] == "10"


def test_over_grpc(guarded: Guarded) -> None:
    """It is UNAVAILABLE with the code and the time to wait."""
    guarded.break_it()
    request = infer_request("identity-fp32", {"x": two_rows([1, 1])})
    with (
        grpc.insecure_channel(f"127.0.0.1:{guarded.server.port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        infer(channel, request)
    error = caught.value
    assert isinstance(error, grpc.Call)
    trailers = dict(error.trailing_metadata() or ())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert trailers["x-salver-code"] == "circuit_open"
    assert trailers["grpc-retry-pushback-ms"] == "5000"


@pytest.mark.parametrize(
    "error",
    [ValueRejected("no"), Overloaded("full"), DeadlineExceeded("it came at once")],
    ids=lambda error: error.code,
)
def test_what_is_not_the_models_fault_opens_nothing(guarded: Guarded, error: SalverError) -> None:
    """Refusals, of the caller's data or for want of room, say nothing about the model.

    Nor does the deadline of a caller who had no time.
    """
    guarded.engine.error = error
    for _ in range(4 * POLICY.min_requests):
        assert guarded.ask()[1] == error.code
    assert not guarded.is_open


def test_a_probe_whose_caller_leaves_makes_room_for_another(guarded: Guarded) -> None:
    """A client that leaves takes no probe's place for ever."""
    guarded.break_it()
    guarded.clock.advance(5.0)
    guarded.engine.error, guarded.engine.keep = None, True
    clients = Clients(guarded.server, POLICY.probes)
    for client in clients.sockets:
        client.sendall(ask(10))
    guarded_until(guarded, lambda: len(guarded.engine.kept) == POLICY.probes)
    assert guarded.ask()[1] == "circuit_open"
    clients.close()
    guarded_until(guarded, lambda: not guarded.circuits._probes)
    guarded.engine.keep = False
    for _ in range(POLICY.probes):
        assert guarded.ask()[0] == 200
    assert not guarded.is_open


def guarded_until(guarded: Guarded, holds: Callable[[], bool]) -> None:
    """Wait until something holds, while observers hear of what ends."""
    for _ in range(5000):
        guarded.server.run(guarded.server.ring.drain)
        if holds():
            return
    raise AssertionError("it never came to hold")


def test_a_cohort_meets_the_breaker_one_by_one(guarded: Guarded) -> None:
    """While it is half-open as many of a cohort pass as probes may, and the others are refused."""
    guarded.engine.error = None
    warm(guarded.server)
    guarded.break_it()
    guarded.engine.error, guarded.engine.keep = None, True
    guarded.clock.advance(5.0)
    clients = Clients(guarded.server, 6)
    clients.send([ask(10 + n) for n in range(6)])
    guarded_until(guarded, lambda: len(guarded.engine.kept) == POLICY.probes)
    guarded.server.run(lambda: [answer() for answer in guarded.engine.kept])
    answers = clients.read_all()
    clients.close()
    codes = sorted(orjson.loads(text).get("code", "") for _, _, text in answers)
    assert codes == ["", "", *["circuit_open"] * 4]


def test_a_closed_breaker_leaves_cohorts_whole(guarded: Guarded) -> None:
    """Cohorts go through as they are."""
    warm(guarded.server)
    clients = Clients(guarded.server, 6)
    clients.send([ask(10 + n) for n in range(6)])
    assert [status for status, _, _ in clients.read_all()] == [200] * 6
    clients.close()
    assert sum(len(cohort) for cohort in guarded.engine.cohorts) >= 3


@pytest.mark.parametrize(
    "error", [NonFiniteOutput("NaN"), MemoryLimitExceeded("too much")], ids=lambda error: error.code
)
def test_whatever_the_model_fails_at_opens_it(guarded: Guarded, error: SalverError) -> None:
    """One that gives NaN, or runs out of memory, for everybody is given a pause as well."""
    guarded.engine.error = error
    seen = [guarded.ask()[1] for _ in range(POLICY.min_requests + 1)]
    assert seen == [error.code] * POLICY.min_requests + ["circuit_open"]


def late(context: RequestContext, open_ns: int) -> Exchange:
    """Return the record of a request whose deadline passed while a worker had it."""
    context.variant, context.worker = VARIANT, "shared-0"
    return Exchange(context, "identity-fp32", "http", "deadline_exceeded", open_ns, None)


def test_a_model_that_hangs_for_everybody_is_given_a_pause(guarded: Guarded) -> None:
    """Deadlines count where requests were open for long; a probe that hangs makes it wait on."""
    count = Outcomes(guarded.circuits.counted)
    hurried = [late(RequestContext("", ANONYMOUS, 0, 1), STALLED_NS - 1) for _ in range(50)]
    count([*hurried])
    assert not guarded.is_open
    count([late(RequestContext("", ANONYMOUS, 0, 1), STALLED_NS) for _ in range(5)])
    assert guarded.is_open
    assert guarded.ask()[1] == "circuit_open"
    guarded.clock.advance(5.0)
    probe = RequestContext("", ANONYMOUS, 0, 1, variant=VARIANT)
    guarded.engine.keep = True
    guarded.circuits(InferenceRequest("identity-fp32", []), probe, Silent())
    guarded.circuits.probed([late(probe, STALLED_NS)])
    assert guarded.ask()[2]["retry-after"] == "10"


def finished(code: str = "", *, joined: bool = False) -> Exchange:
    """Return the record of a request that no worker was asked for, or not for it alone."""
    context = RequestContext("", ANONYMOUS, 0, 1, variant=VARIANT, joined=joined)
    return Exchange(context, "identity-fp32", "http", code, STALLED_NS, None)


def test_answers_from_memory_hide_no_model_that_hangs(guarded: Guarded) -> None:
    """They say nothing of the version, however many there are."""
    count = Outcomes(guarded.circuits.counted)
    hanging = [late(RequestContext("", ANONYMOUS, 0, 1), STALLED_NS) for _ in range(5)]
    count([*(finished() for _ in range(50)), *hanging])
    assert guarded.is_open


def test_one_run_that_many_joined_is_one_failure(guarded: Guarded) -> None:
    """Callers who waited for an equal request are told of it, and count for nothing."""
    count = Outcomes(guarded.circuits.counted)
    count(
        [finished("worker_crashed"), *(finished("worker_crashed", joined=True) for _ in range(50))]
    )
    assert not guarded.is_open


class Named:
    """Handler before the breakers that asks in a name of its own, as a cache does."""

    def __init__(self, inner: CircuitBreakers) -> None:
        self._inner = inner
        self.contexts: list[RequestContext] = []

    def __call__(self, responder: Responder) -> None:
        """Ask."""
        context = RequestContext("", ANONYMOUS, 0, 10**12, variant=VARIANT)
        self.contexts.append(context)
        self._inner(InferenceRequest("identity-fp32", []), context, responder)


class Told(Silent):
    """Responder that keeps what it was told last."""

    error: SalverError | None = None

    def fail(self, error: SalverError) -> None:
        """Keep the error."""
        self.error = error


@pytest.fixture
def half_open() -> tuple[CircuitBreakers, Faulty]:
    """Give breakers of which one is about to let probes through, without a ring."""
    clock, engine = ManualClock(), Faulty()
    circuits = CircuitBreakers(engine, POLICY, clock, Meter())
    circuits.apply(PLAN)
    count = Outcomes(circuits.counted)
    count([late(RequestContext("", ANONYMOUS, 0, 1), STALLED_NS) for _ in range(5)])
    clock.advance(5.0)
    engine.keep = True
    return circuits, engine


def test_probes_in_a_name_of_their_own_end_too(half_open: tuple[CircuitBreakers, Faulty]) -> None:
    """Those of a cache's flight or of a shadow never reach the ring, and close it all the same."""
    circuits, engine = half_open
    asking = Named(circuits)
    for _ in range(POLICY.probes):
        asking(Silent())
    told = Told()
    asking(told)
    assert isinstance(told.error, CircuitOpen)
    for probe in [*circuits._probes.values()]:
        probe.send(InferenceResponse([]))
    assert not circuits._tripped
    asking(Silent())
    assert len(engine.kept) == POLICY.probes + 1


def test_such_probes_that_nobody_waits_for_make_room(
    half_open: tuple[CircuitBreakers, Faulty],
) -> None:
    """When all of a flight have left, another request is let through."""
    circuits, engine = half_open
    asking = Named(circuits)
    for _ in range(POLICY.probes):
        asking(Silent())
    asking.contexts[0].cancel()
    asking(Silent())
    assert len(engine.kept) == POLICY.probes + 1
    told = Told()
    asking(told)
    assert isinstance(told.error, CircuitOpen)


def test_a_probe_of_an_earlier_pause_says_nothing(
    half_open: tuple[CircuitBreakers, Faulty],
) -> None:
    """One that ends when the breaker has opened again counts neither for nor against the model."""
    circuits, _ = half_open
    asking = Named(circuits)
    for _ in range(POLICY.probes):
        asking(Silent())
    first, second = circuits._probes.values()
    first.fail(WorkerCrashed("it died"))
    openings = first.breaker.openings
    assert isinstance(circuits._clock, ManualClock)
    circuits._clock.advance(11.0)
    asking(Silent())
    second.fail(WorkerCrashed("it died"))
    assert first.breaker.openings == openings
    (third,) = circuits._probes.values()
    third.send(InferenceResponse([]))
    asking(Silent())
    assert circuits._tripped


def test_one_callers_failures(guarded: Guarded) -> None:
    """A model's error counts as its failure, and is the caller's answer until the breaker opens."""
    guarded.engine.error = ModelFailed("it raised")
    seen = [guarded.ask()[1] for _ in range(POLICY.min_requests + 2)]
    assert seen == ["model_failed"] * POLICY.min_requests + ["circuit_open"] * 2


def test_a_plan_without_the_variant_forgets_its_breaker(guarded: Guarded) -> None:
    """A variant that was taken away and comes again begins closed."""
    guarded.break_it()
    without = PLAN.__class__(2, 0, PLAN.endpoints[:1], ())
    guarded.server.run(lambda: guarded.circuits.apply(without))
    guarded.server.run(lambda: guarded.circuits.apply(PLAN))
    guarded.engine.error = None
    assert guarded.ask()[0] == 200
