"""Where load may go."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def port(*, listens: bool, at: str = "127.0.0.1") -> Iterator[int]:
    """Hold a port at one address of this machine, at which somebody listens or nobody does."""
    with socket.socket() as held:
        held.bind((at, 0))
        if listens:
            held.listen()
        yield int(held.getsockname()[1])


def name(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> str:
    """Return a name that has these addresses, in this order."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, port: Any, *others: Any, **more: Any) -> list[Any]:
        hosts = addresses if host == "twice.invalid" else [host]
        return [found for each in hosts for found in resolve(each, port, *others, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return "twice.invalid"


@pytest.mark.parametrize("other", ["::1", "127.0.0.2"])
def test_of_two_addresses_the_one_that_listens_is_taken(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may listen at one of a name's addresses only, first or not."""
    host = name(monkeypatch, other, "127.0.0.1")
    with port(listens=True) as number:
        target = find_target(f"http://{host}:{number}")
    assert (target.host, target.address) == (host, "127.0.0.1")
    with port(listens=True, at="127.0.0.2") as number:
        found = find_target(f"http://{host}:{number}").address
    assert found == other


def test_where_nobody_listens_the_first_address_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error then comes from whoever opens the connections."""
    host = name(monkeypatch, "::1", "127.0.0.1")
    with port(listens=False) as number:
        assert find_target(f"http://{host}:{number}").address == "::1"


def test_of_two_addresses_a_foreign_one_needs_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nobody asks there, though only there somebody listens."""
    # To the system 0.0.0.0 is this machine's 127.0.0.1, to us it is none of the loopback's.
    host = name(monkeypatch, "127.0.0.2", "0.0.0.0")
    with port(listens=True) as number:
        url = f"http://{host}:{number}"
        assert find_target(url).address == "127.0.0.2"
        assert find_target(url, allow_remote=True).address == "0.0.0.0"


def test_a_name_that_is_foreign_first_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is this machine's name as well."""
    host = name(monkeypatch, "0.0.0.0", "127.0.0.1")
    with port(listens=True) as number, pytest.raises(InvalidSettings, match="--allow-remote"):
        find_target(f"http://{host}:{number}")
