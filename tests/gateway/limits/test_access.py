"""Rates of callers: which one counts, and who shares it."""

import asyncio
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import yaml

from salver.core.clock import ManualClock
from salver.core.context import ANONYMOUS, Principal, Rate
from salver.core.errors import Forbidden, InvalidSettings, QuotaExceeded
from salver.core.settings import LimitSettings
from salver.gateway.auth import Keys
from salver.gateway.limits.access import Access
from salver.gateway.limits.address import AddressGroups, network


def admitted(access: Access, principal: Principal, endpoint: str, tries: int = 100) -> int:
    """Return how many of some requests pass."""
    count = 0
    for _ in range(tries):
        try:
            access.check(principal, endpoint)
        except QuotaExceeded:
            return count
        count += 1
    return count


def test_without_rates_everybody_passes() -> None:
    """By default nobody is held back, and nothing is remembered of anybody."""
    access = Access(LimitSettings(), ManualClock())
    assert admitted(access, ANONYMOUS, "two") == 100
    assert access.admit(ANONYMOUS, "two", 256) == 256


def test_the_default_rate_is_for_each_caller() -> None:
    """Callers without a rate of their own have that of the settings, each for itself."""
    access = Access(LimitSettings(rate_per_s=2.0, burst=7), ManualClock())
    assert admitted(access, Principal("alice"), "two") == 7
    assert admitted(access, Principal("bob"), "two") == 7
    assert admitted(access, Principal("bob", tenant="others"), "two") == 7


def test_two_keys_of_one_name_share_its_rate() -> None:
    """A caller with two keys has one rate."""
    access = Access(LimitSettings(), ManualClock())
    rate = Rate(1.0, 4)
    assert admitted(access, Principal("alice", rate=rate), "two", 3) == 3
    assert admitted(access, Principal("alice", rate=rate), "two") == 1


def test_a_rate_counts_every_endpoint_and_an_endpoints_rate_only_its_own() -> None:
    """The smaller room decides, and a refused request uses up neither."""
    access = Access(LimitSettings(rate_per_s=1.0, burst=100), ManualClock())
    alice = Principal("alice", rate=Rate(1.0, 10), endpoint_rates={"slow": Rate(1.0, 3)})
    assert admitted(access, alice, "slow") == 3
    assert admitted(access, alice, "slow") == 0
    assert admitted(access, alice, "quick") == 7
    assert admitted(access, alice, "another") == 0


def test_asking_for_endpoints_that_do_not_exist_fills_nothing() -> None:
    """Only the caller is remembered, however many names are tried."""
    access = Access(LimitSettings(rate_per_s=1000.0), ManualClock())
    for number in range(50):
        access.check(ANONYMOUS, f"guess-{number}")
    assert len(access._used) == 1


def test_as_many_of_a_group_pass_as_may() -> None:
    """Of requests that come together the first ones pass, and later ones when it is time."""
    clock = ManualClock()
    access = Access(LimitSettings(rate_per_s=10.0, burst=5), clock)
    assert access.admit(ANONYMOUS, "two", 8) == 5
    assert access.admit(ANONYMOUS, "two", 8) == 0
    clock.advance(0.2)
    assert access.admit(ANONYMOUS, "two", 8) == 2


def test_who_is_over_the_quota_of_open_requests_uses_up_nothing_of_the_rate() -> None:
    """Other refusals come first and are not counted."""
    access = Access(LimitSettings(rate_per_s=1.0, burst=2), ManualClock())
    bob = Principal("bob", endpoints=frozenset({"two"}), max_in_flight=1)
    bob.in_flight = 1
    with pytest.raises(QuotaExceeded, match="open"):
        access.check(bob, "two")
    with pytest.raises(Forbidden):
        access.check(bob, "other")
    assert access.admit(bob, "two", 1) == 0
    bob.in_flight = 0
    assert admitted(access, bob, "two") == 2


def test_the_refusal_says_how_long_to_wait() -> None:
    """After the time that is named, and not before, the caller passes."""
    clock = ManualClock()
    access = Access(LimitSettings(rate_per_s=4.0, burst=1), clock)
    access.check(ANONYMOUS, "two")
    with pytest.raises(QuotaExceeded, match=r"wait 0\.250 s") as caught:
        access.check(ANONYMOUS, "two")
    wait_s = caught.value.retry_after_s
    assert wait_s == 0.25
    clock.advance(wait_s - 0.001)
    assert admitted(access, ANONYMOUS, "two") == 0
    clock.advance(0.001)
    assert admitted(access, ANONYMOUS, "two") == 1


def test_a_rate_that_is_raised_holds_at_once() -> None:
    """Whoever used up the burst of a slower one owes a burst of the new one, and no more."""
    clock = ManualClock()
    access = Access(LimitSettings(), clock)
    slow = Principal("alice", rate=Rate(0.1, 100))
    assert admitted(access, slow, "two", 200) == 100
    quick = Principal("alice", rate=Rate(100.0, 100))
    with pytest.raises(QuotaExceeded) as caught:
        access.check(quick, "two")
    assert caught.value.retry_after_s is not None
    clock.advance(caught.value.retry_after_s)
    assert admitted(access, quick, "two") == 1


def test_a_quick_key_does_not_pay_for_a_slow_one() -> None:
    """Two keys of one name may have unlike rates; what one owes is not forgiven by the other."""
    access = Access(LimitSettings(), ManualClock())
    slow = Principal("alice", rate=Rate(0.1, 100))
    quick = Principal("alice", rate=Rate(100.0, 100))
    passed = 0
    for _ in range(20):
        passed += admitted(access, slow, "two", 200) + admitted(access, quick, "two", 1)
    assert passed <= 200
    assert not slow.is_rerated


def test_gateways_share_a_rate() -> None:
    """Four gateways together grant what one would."""
    clock = ManualClock()
    settings = LimitSettings(rate_per_s=8.0, burst=12)
    gateways = [Access(settings, clock, 4) for _ in range(4)]
    assert sum(admitted(access, ANONYMOUS, "two") for access in gateways) == 12
    clock.advance(1.0)
    assert sum(admitted(access, ANONYMOUS, "two") for access in gateways) == 8


def key_file(folder: Path, **more: object) -> Path:
    """Write a file with one key."""
    path = folder / "keys.yaml"
    line = {"sha256": hashlib.sha256(b"secret").hexdigest(), "principal": "alice", **more}
    path.write_text(yaml.safe_dump({"keys": [line]}))
    return path


def test_the_file_declares_rates(tmp_path: Path) -> None:
    """An entry says how often its caller may ask, and how often single endpoints."""
    file = key_file(tmp_path, rate=2.5, endpoint_rates={"slow": {"rate": 0.5, "burst": 2}})
    keys = Keys(file)
    keys.provision()
    alice = keys.identify({b"x-api-key": b"secret"})
    assert alice.rate == Rate(2.5, 3)
    assert alice.endpoint_rates == {"slow": Rate(0.5, 2)}
    key_file(tmp_path, rate=9.0, burst=1)
    keys.provision()
    changed = keys.identify({b"x-api-key": b"secret"})
    assert changed is alice
    assert changed.rate == Rate(9.0, 1)
    assert changed.endpoint_rates is None


@pytest.mark.parametrize(
    "broken",
    [
        {"rate": 0},
        {"rate": -1.0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"rate": 1.0, "burst": 0},
        {"burst": 5},
        {"endpoint_rates": {"two": {"rate": 0.0}}},
        {"endpoint_rates": {"two": {"burst": 1}}},
    ],
)
def test_rates_that_make_no_sense_are_refused(tmp_path: Path, broken: dict[str, object]) -> None:
    """A rate is a positive number and a burst at least one; the refusal names the setting."""
    with pytest.raises(InvalidSettings, match="API key file"):
        Keys(key_file(tmp_path, **broken)).provision()


def test_a_default_rate_that_makes_no_sense_is_refused() -> None:
    """So is one of the settings."""
    with pytest.raises(InvalidSettings, match=r"limits\.rate_per_s"):
        Access(LimitSettings(rate_per_s=-1.0), ManualClock())


class At:
    """Transport of a client at an address."""

    def __init__(self, peer: object) -> None:
        self.peer = peer

    def get_extra_info(self, name: str) -> object:
        """Return the address."""
        assert name == "peername"
        return self.peer


def grouping(key: bytes, groups: int) -> Callable[[object], str]:
    """Return how addresses are grouped."""
    made = AddressGroups(key, groups)
    return lambda peer: made.name(cast(asyncio.BaseTransport, At(peer)))


def test_addresses_are_grouped() -> None:
    """A client has one name whatever its port; many addresses have few names; sockets have none."""
    name = grouping(b"k" * 32, 16)
    assert name(("10.0.0.1", 1)) == name(("10.0.0.1", 2)) == name(("::ffff:10.0.0.1", 3, 0, 0))
    rng = random.Random(1)
    names = {name((f"10.{rng.randrange(256)}.{rng.randrange(256)}.1", 1)) for _ in range(500)}
    assert len(names) == 16
    assert name("") == name(None) == ""


def test_a_network_of_ipv6_is_one_client() -> None:
    """Who has a network of 64 bits has one name, and who is next to it another."""
    assert network("2001:db8::1") == network("2001:db8::ffff:1") == network("2001:db8::2%eth0")
    assert network("2001:db8:0:1::1") != network("2001:db8::1")


def test_nobody_can_choose_whose_group_to_share() -> None:
    """Which addresses go together depends on a secret."""
    peers = [(f"10.0.{index}.1", 1) for index in range(64)]
    one, other = grouping(b"a" * 32, 4), grouping(b"b" * 32, 4)
    assert [one(peer) for peer in peers] != [other(peer) for peer in peers]
