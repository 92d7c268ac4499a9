"""What is said about routing is checked before anything relies on it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import InvalidRequest
from salver.core.routing import MAX_RULES, Routing, Rule, check_routing, ring


def test_a_source_has_a_kind_and_a_name() -> None:
    """Names of header fields are compared without case, others as they are."""
    assert Routing("header:X-User").source == ("header", "x-user")
    assert Routing("parameter:User").source == ("parameter", "User")
    assert Routing().source == ("", "")


def test_headers_are_those_of_key_and_rules() -> None:
    """The gateway looks at no other fields."""
    rules = (Rule("canary", headers={"X-Tenant": "a"}), Rule("2", headers={"x-beta": "1"}))
    assert Routing("header:X-User", rules).headers == ("x-beta", "x-tenant", "x-user")
    assert Routing("input:user", rules).headers == ("x-beta", "x-tenant")


@pytest.mark.parametrize(
    ("routing", "cause"),
    [
        (Routing("cookie:user"), "header:NAME"),
        (Routing("header:"), "header:NAME"),
        (Routing("header:x user"), "no name of a header field"),
        (Routing("", (Rule("", caller="a"),)), "rule 1: 'to' names"),
        (Routing("", (Rule("canary"),)), "holds for every request"),
        (Routing("", (Rule("canary", headers={"x\r\n": "a"}),)), "no name of a header field"),
        (Routing("", (Rule("canary", caller="a" * 257),)), "over 256 characters"),
        (Routing("", (Rule("canary", headers={"x": "a" * 257}),)), "over 256 characters"),
        (Routing("", (Rule("canary", min_bytes=5, max_bytes=4),)), "min_bytes <= max_bytes"),
        (Routing("", (Rule("canary", min_bytes=-1),)), "min_bytes <= max_bytes"),
        (Routing("", (Rule("canary", caller="a"),) * (MAX_RULES + 1)), "at most 32"),
        (
            Routing("", (Rule("c", parameters={str(number): 1 for number in range(17)}),)),
            "over 16 conditions",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_cause(routing: Routing, cause: str) -> None:
    """A person learns which part is wrong."""
    with pytest.raises(InvalidRequest, match=cause):
        check_routing(routing)


def test_what_can_work_passes() -> None:
    """Each kind of key, and each kind of condition."""
    for key in ("", "header:x-user", "parameter:user", "input:user_id"):
        check_routing(Routing(key))
    rules = (
        Rule("canary", caller="alice"),
        Rule("2", headers={"x-beta": "1"}, parameters={"tier": "gold"}),
        Rule("small", input="text", max_bytes=64),
    )
    check_routing(Routing("", rules))


@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=5), st.integers(0, 400))
def test_a_ring_is_divided_as_weights_say(weights: list[int], floor: int) -> None:
    """Every part is as long as its weight, and more for an arm only moves callers to it."""
    parts = ring(weights, floor)
    found = [0] * len(weights)
    for index, length in parts:
        assert length > 0
        found[index] += length
    assert found == weights
    if floor == 0:
        assert [index for index, _ in parts][-1:] == [0] * (weights[0] > 0) or not weights[0]


@given(st.lists(st.integers(400, 2_000), min_size=2, max_size=5), st.integers(1, 400))
def test_floors_lie_where_they_were_whatever_the_weights(weights: list[int], floor: int) -> None:
    """Each has its own places at the lower end, the primary one's after the others."""
    first = ring(weights, floor)[: len(weights)]
    assert first == [(index, floor) for index in (*range(1, len(weights)), 0)]
