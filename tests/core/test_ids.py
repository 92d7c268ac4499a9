"""Sealed ids say which arm answered, and nobody can make one say something else."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.clock import SystemClock
from salver.core.ids import ID_LENGTH, SEALED_LENGTH, RequestIds, Sealed

IDS = RequestIds(b"k" * 32, 7, SystemClock())


@given(
    st.text(max_size=40),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(-1, 9_999),
)
def test_a_sealed_id_says_what_was_sealed(
    endpoint: str, version: int, epoch: int, place: int
) -> None:
    """Version, epoch and place come back, for the endpoint's name only."""
    sealed = IDS.seal(IDS.make(), endpoint, version, epoch, place)
    assert len(sealed) == SEALED_LENGTH
    opened = IDS.unseal(sealed, endpoint)
    assert opened is not None
    assert opened[1:] == (version, epoch, place)
    assert IDS.unseal(sealed, endpoint + "x") is None


@given(st.integers(0, SEALED_LENGTH - 1), st.sampled_from("0123456789abcdef"))
def test_one_other_digit_makes_it_invalid(position: int, digit: str) -> None:
    """No digit can be changed."""
    sealed = IDS.seal(IDS.make(), "churn", 2, 17, 5_000)
    changed = sealed[:position] + digit + sealed[position + 1 :]
    assert (IDS.unseal(changed, "churn") is None) == (changed != sealed)


def test_pieces_of_two_ids_make_no_third() -> None:
    """Whoever has ids of two arms cannot move the arm from one to the other."""
    one = IDS.seal(IDS.make(), "churn", 1, 17, 100)
    two = IDS.seal(IDS.make(), "churn", 2, 17, 100)
    head, arm = slice(0, 24), slice(24, 44)
    assert IDS.unseal(one[head] + two[arm] + one[44:], "churn") is None
    mixed = int(one[44:], 16) ^ int(two[44:], 16)
    assert IDS.unseal(one[head] + two[arm] + f"{mixed:016x}", "churn") is None


@pytest.mark.parametrize("text", ["", "x" * SEALED_LENGTH, "0" * ID_LENGTH, " " * SEALED_LENGTH])
def test_other_texts_are_no_sealed_ids(text: str) -> None:
    """Anything may be sent."""
    assert IDS.unseal(text, "churn") is None


def test_an_id_that_was_not_sealed_has_no_arm() -> None:
    """It is genuine all the same."""
    plain = IDS.make()
    assert IDS.verify(plain)
    assert IDS.unseal(plain, "churn") is None


def test_another_installations_ids_are_strange() -> None:
    """The key decides."""
    others = RequestIds(b"o" * 32, 7, SystemClock())
    assert IDS.unseal(others.seal(others.make(), "churn", 2, 1, -1), "churn") is None


def test_the_time_is_that_of_making() -> None:
    """Feedback can be refused when it comes too late."""
    made = IDS.unseal(IDS.seal(IDS.make(), "e", 1, 1, -1), "e")
    assert isinstance(made, Sealed)
    assert abs(made.unix_ms - SystemClock().unix_ns() // 1_000_000) < 60_000


def test_made_up_ids_keep_nothing_and_displace_no_arm() -> None:
    """Whoever names arms that there are none of makes the process neither larger nor slower."""
    ids = RequestIds(b"k" * 32, 7, SystemClock())
    sealed, arm = ids.seal(ids.make(), "e", 1, 1, 5), ids.arm("e", 1, 1)
    forged = [f"{sealed[:24]}{version:08x}{sealed[32:]}" for version in range(2, 202)]
    tracemalloc.start()
    try:
        assert all(ids.unseal(one, "e") is None for one in forged)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 1024
    assert ids.arm("e", 1, 1) is arm
    assert ids.unseal(sealed, "e") is not None
