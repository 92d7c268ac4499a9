"""Which variant answers: what was asked for, a rule, or chance by weight, which then sticks."""

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.clock import SystemClock
from salver.core.cohort import Cohort
from salver.core.context import ANONYMOUS, Principal, RequestContext
from salver.core.errors import NotReady, SalverError, VersionNotFound
from salver.core.handler import Responder
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest, InferenceResponse, form_of
from salver.core.routing import Routing, Rule
from salver.core.signature import Column, Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.traffic.keys import sticky_point
from salver.traffic.router import Router
from salver.wire.messages import EndpointPlan, Plan, VariantPlan

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("user", "BYTES", (-1,))),
    (TensorSpec("y", "FP32", (-1,)),),
)
IDS = RequestIds(b"k" * 32, 1, SystemClock())


def variant(version: int, role: str, weight: int) -> VariantPlan:
    """Return one variant."""
    return VariantPlan(
        f"m:{version}", role, "m", str(version), "0" * 64, "onnx", weight, 9, SIGNATURE, ()
    )


def endpoint(canary: int = 0, routing: Routing | None = None, salt: str = "") -> EndpointPlan:
    """Return endpoint ``e`` with a canary of this weight."""
    routing = routing or Routing()
    variants = (variant(1, "primary", 10_000 - canary), variant(2, "canary", canary))
    return EndpointPlan("e", variants, routing=routing, headers=routing.headers, salt=salt)


class Last:
    """The handler behind the router; notes what comes."""

    def __init__(self) -> None:
        self.contexts: list[RequestContext] = []
        self.cohorts: list[Cohort] = []

    def __call__(
        self, request: InferenceRequest, context: RequestContext, responder: Responder
    ) -> None:
        """Note one request."""
        del request, responder
        self.contexts.append(context)

    def many(self, cohorts: Sequence[Cohort]) -> None:
        """Note cohorts."""
        self.cohorts += cohorts


class Caller:
    """Responder that notes what went wrong."""

    def __init__(self) -> None:
        self.error: SalverError | None = None

    def send(self, response: InferenceResponse, *, final: bool = True) -> None:
        """Need nothing."""

    def fail(self, error: SalverError) -> None:
        """Note the error."""
        self.error = error


class Room:
    """Audience that notes who was told which id."""

    def __init__(self) -> None:
        self.told: dict[object, str] = {}

    def seated(self, cohort: Cohort) -> None:
        """Note the ids."""
        self.told |= dict(zip(cohort.seats, cohort.request_ids, strict=True))

    def answer(self, pieces: object, response: object) -> None:
        """Never answer."""

    def responder(
        self, cohort: Cohort, index: int, request: InferenceRequest, context: RequestContext
    ) -> Responder:
        """Return somebody who waits."""
        del cohort, index, request, context
        return Caller()


def router(plan: EndpointPlan, seed: int = 0) -> tuple[Router, Last]:
    """Return a router by this plan, and what is behind it."""
    last = Last()
    made = Router(last, random.Random(seed), IDS)
    made.apply(Plan(1, 0, (plan,)))
    return made, last


def ask(made: Router, **known: object) -> RequestContext:
    """Route one request; ``known`` may have version, headers, parameters, user, principal."""
    inputs = [Tensor.from_array("x", np.zeros((1, 2), np.float32))]
    user = known.get("user")
    if isinstance(user, bytes):
        inputs.append(Tensor("user", "BYTES", (1,), len(user).to_bytes(4, "little") + user))
    version = known.get("version")
    assert version is None or isinstance(version, str)
    request = InferenceRequest("e", inputs, version)
    parameters, headers = known.get("parameters"), known.get("headers")
    assert parameters is None or isinstance(parameters, dict)
    assert headers is None or isinstance(headers, dict)
    request.parameters = parameters
    principal = known.get("principal", ANONYMOUS)
    assert isinstance(principal, Principal)
    context = RequestContext(IDS.make(), principal, 0, 1)
    context.headers = headers
    caller = Caller()
    made(request, context, caller)
    if caller.error is not None:
        raise caller.error
    return context


def gathered(count: int, **context: object) -> tuple[Cohort, Room]:
    """Return a cohort for endpoint ``e`` and its audience."""
    room = Room()
    form = form_of(InferenceRequest("e", [Tensor.from_array("x", np.zeros((1, 2), np.float32))]))
    common = RequestContext("", ANONYMOUS, 0, 1)
    headers = context.get("headers")
    assert headers is None or isinstance(headers, dict)
    common.headers = headers
    request = InferenceRequest("e", [], form=form)
    payloads = [np.full(2, number, np.float32).tobytes() for number in range(count)]
    seats = list(range(count))
    cohort = Cohort(request, common, room, seats, IDS.make_many(count), [None] * count, payloads)
    return cohort, room


def test_chance_follows_the_weights() -> None:
    """Of many requests without a key a twentieth goes to a canary of 5 %."""
    made, _ = router(endpoint(500))
    counts = Counter(ask(made).variant for _ in range(4_000))
    assert 130 < counts["m:2"] < 280


def test_a_weight_of_nothing_gets_nothing_and_all_gets_all() -> None:
    """The ends of the scale are exact."""
    made, _ = router(endpoint(0))
    assert {ask(made).variant for _ in range(300)} == {"m:1"}
    made, _ = router(endpoint(10_000))
    assert {ask(made).variant for _ in range(300)} == {"m:2"}


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.text(min_size=1, max_size=30))
def test_more_weight_only_moves_callers_to_the_canary(first: int, more: int, user: str) -> None:
    """Nobody who had the canary goes back while its weight grows."""
    first, more = sorted((first, more))
    routing = Routing("header:x-user")
    before, _ = router(endpoint(first, routing), 1)
    after, _ = router(endpoint(more, routing), 2)
    headers = {"x-user": user}
    had = ask(before, headers=headers).variant
    assert ask(before, headers=headers).variant == had
    assert had == "m:1" or ask(after, headers=headers).variant == "m:2"


def test_callers_fall_evenly() -> None:
    """Of many callers a fifth has the canary of 20 %, and another salt chooses others."""
    routing = Routing("header:x-user")
    users = [str(number) for number in range(3_000)]

    def chosen(salt: str) -> set[str]:
        made, _ = router(endpoint(2_000, routing, salt))
        return {user for user in users if ask(made, headers={"x-user": user}).variant == "m:2"}

    one, other = chosen("a"), chosen("b")
    assert 500 < len(one) < 700
    assert 60 < len(one & other) < 190


@pytest.mark.parametrize(
    ("key", "request_with"),
    [
        ("header:x-user", {"headers": {"x-user": "eve"}}),
        ("parameter:user", {"parameters": {"user": "eve"}}),
        ("input:user", {"user": b"eve"}),
    ],
)
def test_a_key_may_be_anywhere(key: str, request_with: dict[str, object]) -> None:
    """The place depends on the key's text, wherever it was."""
    made, _ = router(endpoint(5_000, Routing(key)))
    context = ask(made, **request_with)
    assert context.routing_key == "eve"
    assert context.place == sticky_point("e", "eve")
    assert ask(made).place == -1


def test_numbers_that_are_equal_are_the_same_key() -> None:
    """A user id may be a float column."""
    keys = []
    for array in (np.array([[7, 0]], np.float32), np.array([[7, 1]], np.int64)):
        made, _ = router(endpoint(5_000, Routing("input:x")))
        context = RequestContext(IDS.make(), ANONYMOUS, 0, 1)
        made(InferenceRequest("e", [Tensor.from_array("x", array)]), context, Caller())
        keys.append(context.routing_key)
    assert keys == ["7", "7"]


TABLE = Signature(
    (
        TensorSpec("one", "INT64", (-1,), (Column("alone"),)),
        TensorSpec("rows", "FP32", (-1, 3), tuple(map(Column, ("age", "customer", "amount")))),
        TensorSpec("words", "BYTES", (-1, 2), (Column("city"), Column("street"))),
    ),
    (),
)


def table_router(key: str) -> tuple[Router, Last]:
    """Return a router of an endpoint whose primary version takes tables."""
    plan = endpoint(5_000, Routing(key))
    primary, canary = plan.variants
    primary = msgspec.structs.replace(primary, signature=TABLE)
    return router(msgspec.structs.replace(plan, variants=(primary, canary)))


def key_in(key: str, *inputs: Tensor) -> str | None:
    """Return the routing key of one request with these inputs."""
    made, _ = table_router(key)
    context = RequestContext(IDS.make(), ANONYMOUS, 0, 1)
    made(InferenceRequest("e", list(inputs)), context, Caller())
    if context.routing_key is not None:
        assert context.place == sticky_point("e", context.routing_key)
    return context.routing_key


def test_a_column_of_a_table_may_be_the_key() -> None:
    """Its value in the first row, in whatever datatype, as if it had been sent by itself."""
    rows = Tensor.from_array("rows", np.array([[1, 70, 3], [4, 5, 6]], np.float32))
    words = Tensor.from_array("words", np.array([["Bern", "Gasse"], ["Chur", "Weg"]]))
    one = Tensor.from_array("one", np.array([9, 8], np.int64))
    assert key_in("input:customer", one, rows, words) == "70"
    assert key_in("input:amount", one, rows, words) == "3"
    assert key_in("input:street", one, rows, words) == "Gasse"
    assert key_in("input:city", one, rows, words) == "Bern"
    assert key_in("input:alone", one, rows, words) == "9"
    assert key_in("input:nobody", one, rows, words) is None
    # A tensor that is called so is what was meant, as where columns are sent one by one.
    alone = Tensor.from_array("customer", np.array([8], np.int64))
    assert key_in("input:customer", rows, alone) == "8"
    assert key_in("input:rows", rows) == "1"


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("input:customer", Tensor("rows", "FP32", (0, 3), b"")),
        ("input:customer", Tensor.from_array("rows", np.ones((1, 2), np.float32))),
        ("input:customer", Tensor("rows", "FP32", (), b"\0\0\0\0")),
        ("input:street", Tensor("words", "BYTES", (1, 2), b"")),
        ("input:street", Tensor("words", "BYTES", (1, 2), b"\x01\0\0\0a")),
        ("input:street", Tensor("words", "BYTES", (1, 2), b"\xff\xff\xff\xffabc")),
        ("input:street", Tensor("words", "BYTES", (1, 2), b"\x01\0\0\0a\x02")),
    ],
)
def test_a_table_without_that_cell_has_no_key(key: str, tensor: Tensor) -> None:
    """It is drawn; whoever checks the tensors comes later."""
    assert key_in(key, tensor) is None


def test_a_cohort_is_taken_apart_where_a_column_decides() -> None:
    """Each member has its own cell, and falls where it falls when it comes alone."""
    made, last = table_router("input:amount")
    cohort, _ = gathered(40)
    table = Tensor.from_array("rows", np.zeros((1, 3), np.float32))
    cohort.request = InferenceRequest("e", [], form=form_of(InferenceRequest("e", [table])))
    cohort.payloads = [np.full(3, number, np.float32).tobytes() for number in range(40)]
    made.many([cohort])
    assert not last.cohorts
    assert {context.routing_key for context in last.contexts} == {str(n) for n in range(40)}
    for context in last.contexts:
        assert context.routing_key is not None
        assert context.place == sticky_point("e", context.routing_key)
        assert context.variant == ("m:2" if context.place < 5_000 else "m:1")


@pytest.mark.parametrize("buffer", [b"", b"\x01", b"\xff\xff\xff\xffabc", b"\x00\x00\x00\x00"])
def test_a_broken_input_is_no_fault(buffer: bytes) -> None:
    """Whoever checks the tensors comes later; the router takes what there is."""
    made, last = router(endpoint(5_000, Routing("input:user")))
    context = RequestContext(IDS.make(), ANONYMOUS, 0, 1)
    made(InferenceRequest("e", [Tensor("user", "BYTES", (1,), buffer)]), context, Caller())
    assert len(last.contexts) == 1


def test_what_was_asked_for_or_ruled_is_told_from_chance() -> None:
    """Only requests that chance routed are evidence: the others have epoch 0."""
    rules = (Rule("canary", caller="tester"), Rule("1", parameters={"tier": "gold"}))
    made, _ = router(endpoint(10_000, Routing("", rules)))
    assert (ask(made).variant, ask(made).weight_epoch) == ("m:2", 9)
    named = ask(made, version="1")
    assert (named.variant, named.weight_epoch) == ("m:1", 0)
    ruled = ask(made, parameters={"tier": "gold"})
    assert (ruled.variant, ruled.weight_epoch) == ("m:1", 0)
    made, _ = router(endpoint(0, Routing("", rules)))
    assert ask(made, principal=Principal("tester")).variant == "m:2"
    assert ask(made, principal=Principal("other")).variant == "m:1"


def test_rules_look_at_headers_and_sizes() -> None:
    """The first rule that holds decides; one whose variant is not there is passed over."""
    rules = (
        Rule("9", headers={"x-beta": "1"}),
        Rule("canary", headers={"X-Beta": "1"}),
        Rule("canary", input="user", max_bytes=8),
        Rule("canary", min_bytes=1_000),
    )
    made, _ = router(endpoint(0, Routing("", rules)))
    assert ask(made, headers={"x-beta": "1"}).variant == "m:2"
    assert ask(made, headers={"x-beta": "2"}).variant == "m:1"
    assert ask(made, user=b"abcd").variant == "m:2"
    assert ask(made, user=b"abcde").variant == "m:1"
    assert ask(made, user=b"a" * 2_000).variant == "m:2"


def test_a_version_that_is_not_served_is_refused() -> None:
    """The error names those that are."""
    made, _ = router(endpoint(500))
    with pytest.raises(VersionNotFound, match="it serves 1, 2"):
        ask(made, version="3")


@pytest.mark.parametrize("to", ["shadow", "2", "m:2"])
def test_nobody_gets_the_answers_of_a_shadow(to: str) -> None:
    """Neither who names its version nor who a rule would send there: nobody has approved of it."""
    shadow = msgspec.structs.replace(variant(2, "shadow", 0), sample=10_000)
    routing = Routing("", (Rule(to, headers={"x-beta": "1"}),))
    plan = EndpointPlan(
        "e", (variant(1, "primary", 10_000), shadow), routing=routing, headers=routing.headers
    )
    made, last = router(plan)
    with pytest.raises(VersionNotFound, match=r"it serves 1$"):
        ask(made, version="2")
    assert ask(made, headers={"x-beta": "1"}).variant == "m:1"
    made.many([gathered(20, headers={"x-beta": "1"})[0]])
    assert {part.context.variant for part in last.cohorts} == {"m:1"}
    assert {context.variant for context in last.contexts} == {"m:1"}


def test_an_endpoint_without_a_variant_is_not_ready() -> None:
    """The reason is told."""
    made, _ = router(EndpointPlan("e", (), reason="broken file"))
    with pytest.raises(NotReady, match="broken file"):
        ask(made)


def test_ids_say_who_answered() -> None:
    """The context's id becomes a sealed one, the same for the caller and the record."""
    made, _ = router(endpoint(10_000, Routing("header:x-user")))
    context = ask(made, headers={"x-user": "eve"})
    opened = IDS.unseal(context.request_id, "e")
    assert opened is not None
    assert opened[1:] == (2, 9, context.place)


def test_one_variant_leaves_ids_as_they_are() -> None:
    """Nothing is paid where nothing is to be told apart."""
    made, _ = router(EndpointPlan("e", (variant(1, "primary", 10_000),)))
    assert IDS.verify(ask(made).request_id)


def test_a_version_that_is_only_kept_makes_no_difference() -> None:
    """Cohorts stay whole and ids as they are; who names the version still gets it."""
    kept = (variant(2, "primary", 10_000), variant(1, "previous", 0))
    made, last = router(EndpointPlan("e", kept))
    assert IDS.verify(ask(made).request_id)
    cohort, _ = gathered(5)
    made.many([cohort])
    assert [len(part) for part in last.cohorts] == [5]
    assert ask(made, version="1").variant == "m:1"


def test_a_cohort_is_parted_by_chance() -> None:
    """Each member gets its variant with its own payload, seat and id."""
    made, last = router(endpoint(5_000))
    cohort, room = gathered(200)
    made.many([cohort])
    assert {part.context.variant for part in last.cohorts} == {"m:1", "m:2"}
    assert sum(map(len, last.cohorts)) == 200
    assert all(60 < len(part) < 140 for part in last.cohorts)
    for part in last.cohorts:
        for seat, payload, request_id in zip(
            part.seats, part.payloads, part.request_ids, strict=True
        ):
            assert np.frombuffer(payload, np.float32)[0] == seat
            assert room.told[seat] == request_id
            opened = IDS.unseal(request_id, "e")
            assert opened is not None
            assert f"m:{opened.version}" == part.context.variant


def test_versions_of_two_models_with_one_number_are_told_apart() -> None:
    """Another model's version gets its part of a cohort, and the number means the primary."""
    other = msgspec.structs.replace(variant(1, "canary", 500), id="other:1", model="other")
    plan = EndpointPlan("e", (variant(1, "primary", 9_500), other))
    made, last = router(plan)
    cohorts = [gathered(200)[0] for _ in range(10)]
    made.many(cohorts)
    counts = Counter[str]()
    for part in last.cohorts:
        counts[part.context.variant] += len(part)
    assert sum(counts.values()) == 2_000
    assert 50 < counts["other:1"] < 200
    assert ask(made, version="1").variant == "m:1"
    shadow = msgspec.structs.replace(other, role="shadow", weight=0, sample=10_000)
    made, last = router(EndpointPlan("e", (variant(1, "primary", 10_000), shadow)))
    made.many([gathered(20)[0]])
    assert {part.context.variant for part in last.cohorts} == {"m:1"}


def test_callers_in_a_floor_stay_whatever_the_weights_become() -> None:
    """With three arms too, and the others are split as the weights say."""
    seen: dict[str, set[str]] = {}
    for weights in ((3_400, 3_300, 3_300), (8_000, 1_000, 1_000), (1_000, 1_500, 7_500)):
        arms = zip((1, 2, 3), ("primary", "arm", "arm"), weights, strict=True)
        variants = tuple(variant(*one) for one in arms)
        routing = Routing("header:x-user")
        plan = EndpointPlan("e", variants, routing=routing, headers=("x-user",), floor=1_000)
        made, _ = router(plan)
        counts = Counter[str]()
        for user in map(str, range(3_000)):
            found = ask(made, headers={"x-user": user}).variant
            counts[found] += 1
            if sticky_point("e", user) < 3_000:
                seen.setdefault(user, set()).add(found)
        shares = [counts[f"m:{number}"] / 3_000 for number in (1, 2, 3)]
        assert shares == pytest.approx([weight / 10_000 for weight in weights], abs=0.03)
    assert len(seen) > 700
    assert all(len(found) == 1 for found in seen.values())


def test_a_cohort_with_one_key_stays_whole() -> None:
    """Its members have all that decides in common."""
    made, last = router(endpoint(5_000, Routing("header:x-user")))
    cohort, _ = gathered(20, headers={"x-user": "eve"})
    made.many([cohort])
    assert [len(part) for part in last.cohorts] == [20]
    assert last.cohorts[0].context.variant == ask(made, headers={"x-user": "eve"}).variant


def test_a_cohort_is_taken_apart_where_values_decide() -> None:
    """A key that is an input is each member's own."""
    made, last = router(endpoint(5_000, Routing("input:x")))
    cohort, _ = gathered(40)
    made.many([cohort])
    assert not last.cohorts
    assert len(last.contexts) == 40
    assert {context.routing_key for context in last.contexts} == {str(n) for n in range(40)}


def test_a_rule_holds_for_a_whole_cohort() -> None:
    """Sizes of members are equal, so that their sum decides for all."""
    rules = (Rule("canary", input="x", max_bytes=8),)
    made, last = router(endpoint(0, Routing("", rules)))
    cohort, _ = gathered(5)
    made.many([cohort])
    assert [(len(part), part.context.variant) for part in last.cohorts] == [(5, "m:2")]
