"""How long requests were open adds up exactly, wherever they wait."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from salver.core.signature import Signature
from salver.engine.client.pending import VariantRoute
from salver.wire.messages import BatchPolicy, VariantPlan
from tests.engine.fleet import CLOCK, VARIANT, Caller, Model, finish, fleet
from tests.gateway.limits.test_room import Guest, rooms_of

COUNT, RUN_S = 10, 0.02


@given(
    stays=st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 5))),
    looks=st.lists(st.integers(0, 2100)),
)
def test_open_time_is_the_sum_of_the_stays(
    stays: list[tuple[int, int, int]], looks: list[int]
) -> None:
    """Whenever one looks in between, the sum is what each group's stay times its size makes."""
    plan = VariantPlan("m:1", "primary", "m", "1", "0", "t", 1, 1, Signature((), ()), ())
    route = VariantRoute(plan)
    changes = [(start, count) for start, _, count in stays]
    changes += [(start + length, -count) for start, length, count in stays]
    changes += [(look, 0) for look in looks]
    for now_ns, change in sorted(changes, key=lambda one: one[0]):
        if change > 0:
            route.take(change, now_ns)
        elif change < 0:
            route.release(-change, now_ns)
        else:
            route.count(now_ns)
    assert route.open_ns == sum(length * count for _, length, count in stays)
    assert route.in_flight == 0


def test_time_at_the_worker_and_in_the_turns_counts_once() -> None:
    """Ten requests for one place: what is reported lies between what workers and callers saw."""

    async def run() -> None:
        async with rooms_of(running, max_in_flight=1) as guest:
            started_ns = CLOCK.monotonic_ns()
            callers = guest.ask_some(COUNT)
            ended_ns: list[int] = []
            await asyncio.gather(*(_ended(caller, ended_ns) for caller in callers))
            seen_s = sum(ns - started_ns for ns in ended_ns) / 1e9
            # The last of ten that run one after the other is open while all of them run.
            least_s = RUN_S * COUNT * (COUNT + 1) / 2
            assert least_s <= _open_s(guest) <= seen_s
            assert _open_s(guest) == _open_s(guest)

    with fleet(Model(runtime="slow", policy=BatchPolicy(max_batch_size=1))) as running:
        asyncio.run(run())


async def _ended(caller: Caller, ended_ns: list[int]) -> None:
    await finish([caller])
    ended_ns.append(CLOCK.monotonic_ns())


def _open_s(guest: Guest) -> float:
    """Have both report, as a gateway does, and return the sum."""
    guest.rooms.report()
    guest.client.report()
    meters = (guest.meter, guest.client._meter)
    return sum(
        sample.value
        for meter in meters
        for sample in meter.counters()
        if (sample.name, sample.labels) == ("salver_request_open_seconds_total", (VARIANT,))
    )
