"""Seals of request ids, many at once; what they mean is tested with ids."""

import pytest

from salver.core.clock import SystemClock
from salver.core.ids import RequestIds
from salver.core.seals import ArmSeal

KEY = b"k" * 32


@pytest.mark.parametrize("known", [False, True])
def test_many_are_sealed_as_one_by_one(known: bool) -> None:
    """Whether their masks were made before or not, and each says its arm and place."""
    ids = RequestIds(KEY, 1, SystemClock())
    plain, places = ids.make_many(40), [*range(-1, 38), 9_999]
    one = ArmSeal(KEY, "churn", 3, 7)
    expected = [one(request_id, place) for request_id, place in zip(plain, places, strict=True)]
    many = one if known else ArmSeal(KEY, "churn", 3, 7)
    assert many.all(plain, places) == expected
    found = [ids.unseal(sealed, "churn") for sealed in expected]
    assert [None if one is None else (one.version, one.weight_epoch) for one in found] == [
        (3, 7)
    ] * 40
    assert [one.place for one in found if one is not None] == places


def test_as_many_places_as_ids() -> None:
    """A place too few is an error of the caller's, not an id without a seal."""
    ids = RequestIds(KEY, 1, SystemClock())
    with pytest.raises(ValueError, match="shorter"):
        ArmSeal(KEY, "churn", 3, 7).all(ids.make_many(2), [1])
