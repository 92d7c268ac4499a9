"""Where load may go."""

import pytest

from salver.bench.target import find_target
from salver.core.errors import InvalidSettings, NotReady


@pytest.mark.parametrize(
    ("url", "authority", "address"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1"),
        ("http://127.8.9.1/base/", "127.8.9.1:80", "127.8.9.1"),
        ("https://localhost:443", "localhost:443", None),
        ("http://[::1]:9", "[::1]:9", "::1"),
    ],
)
def test_this_machine_may_be_loaded(url: str, authority: str, address: str | None) -> None:
    """Loopback addresses and names are taken as they are."""
    target = find_target(url)
    assert target.authority == authority
    assert address in (None, target.address)
    assert (target.tls is not None) == url.startswith("https:")


@pytest.mark.parametrize(
    "url", ["http://192.0.2.7:8080", "http://[2001:db8::1]:80", "http://8.8.8.8"]
)
def test_another_machine_needs_a_word(url: str) -> None:
    """Load on a server elsewhere is refused, with the reason and the way to mean it."""
    with pytest.raises(InvalidSettings, match="--allow-remote"):
        find_target(url)
    assert find_target(url, allow_remote=True).address in url


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:8080", "http://", "http://x:99999"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """The error shows how an address is written."""
    with pytest.raises(InvalidSettings, match="is no address"):
        find_target(url)


def test_a_name_that_does_not_resolve_is_named() -> None:
    """The reserved name stands in the error."""
    with pytest.raises(NotReady, match=r"nowhere\.invalid"):
        find_target("http://nowhere.invalid")
