"""Weight epochs are numbered as plans are, by what the database counts."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from salver.control.planner import next_plan, numbered, same
from tests.control.test_planner import ADDRESS, EMPTY, seen, with_arms


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(2, 4), st.integers(0, 5_000)), max_size=2),
            st.sampled_from(["r1", "r2"]),
            st.sets(st.integers(1, 4)),
            st.integers(1, 50),
        ),
        max_size=12,
    )
)
def test_an_epoch_that_begins_has_its_plans_own_number(
    steps: list[tuple[list[tuple[int, int]], str, set[int], int]],
) -> None:
    """No epoch is used twice, however many numbers other controls have drawn in between."""
    plan, began = EMPTY, dict[int, tuple[object, ...]]()
    for arms, salt, ready, drawn in steps:
        wanted = with_arms(*((number, "arm", weight) for number, weight in dict(arms).items()))
        wanted = msgspec.structs.replace(wanted, salt=salt)
        observed = seen(plan.number, shared_0={f"m:{number}": "ready" for number in ready})
        following = next_plan([wanted], observed, plan, ADDRESS)
        if same(following, plan):
            continue
        number = plan.number + drawn
        plan = numbered(following, number)
        assert plan.number == number
        endpoint = plan.endpoints[0]
        parts = (endpoint.salt, *((v.id, v.role, v.weight) for v in endpoint.variants))
        for epoch in {variant.weight_epoch for variant in endpoint.variants}:
            assert epoch == number if epoch not in began else epoch < number
            assert began.setdefault(epoch, parts) == parts
        assert len({variant.weight_epoch for variant in endpoint.variants}) <= 1
