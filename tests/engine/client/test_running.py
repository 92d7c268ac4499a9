"""What ran in a process that was lost is known also of requests that nobody waited for any more."""

import uvloop

from salver.core.context import ANONYMOUS, RequestContext
from salver.core.request import InferenceRequest
from salver.core.signature import Signature
from salver.engine.client.pending import Pending, VariantRoute
from salver.engine.client.running import Running
from salver.wire.messages import VariantPlan
from tests.engine.fleet import Caller, Fleet, Model, client_of, fleet, until

ONE, TWO = "one:1", "two:1"


def test_a_request_that_was_given_up_may_be_the_cause() -> None:
    """Its version is named beside the one whose caller still waits."""

    async def run(running: Fleet) -> None:
        async with client_of(running) as callers:
            await until(lambda: callers.client.is_ready(ONE) and callers.client.is_ready(TWO))
            link = callers.client._links["shared-0"]
            left = callers.ask(1.0, variant=ONE)
            callers.ask(2.0, variant=TWO)
            await until(lambda: len(link.running.noted()) == 2)
            left.leave()
            assert [one.route.plan.id for one in link.pending.values()] == [TWO]
            running.kill("shared-0")
            await until(lambda: bool(callers.client.notes.newest()))
            assert callers.client.notes.newest()[0].variants == (ONE, TWO)

    with fleet(Model(ONE, runtime="very-slow"), Model(TWO, runtime="very-slow")) as running:
        uvloop.run(run(running))


def given_up(request_id: int, *, started: bool) -> Pending:
    """Return a request of version ``one:1``."""
    plan = VariantPlan(ONE, "primary", "one", "1", "", "test", 10_000, 1, Signature((), ()), ("w",))
    context = RequestContext("0" * 40, ANONYMOUS, 0, 1)
    pending = Pending(InferenceRequest(ONE, []), context, Caller(), VariantRoute(plan), request_id)
    pending.started = started
    return pending


def test_what_was_given_up_counts_from_its_start_to_its_answer() -> None:
    """What only waited is no cause, nor what was answered all the same, nor anything twice."""
    running = Running(None, "w")
    running.give_up(given_up(1, started=False))
    running.give_up(given_up(2, started=True))
    running.answered((2, 7))
    running.end(())
    assert running.unheard == frozenset()
    running.give_up(given_up(3, started=False))
    running.start(3)
    running.end(())
    assert running.unheard == {ONE}
    running.end(())
    assert running.unheard == frozenset()


def test_only_so_many_are_remembered() -> None:
    """The newest ones, however many callers leave."""
    running = Running(None, "w")
    for request_id in range(5000):
        running.give_up(given_up(request_id, started=request_id == 0))
    running.end(())
    assert running.unheard == frozenset()
