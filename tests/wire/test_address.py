"""Addresses."""

import pytest

from salver.core.errors import InvalidSettings
from salver.wire.address import TcpAddress, UnixAddress, parse_address


def test_both_forms() -> None:
    """Paths and host:port are read, IPv6 hosts in brackets."""
    assert parse_address("unix:/a/b c") == UnixAddress("/a/b c")
    assert parse_address("tcp://host:80") == TcpAddress("host", 80)
    assert parse_address("tcp://[::1]:0") == TcpAddress("::1", 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "tcp://",
        "tcp://host",
        "tcp://:1",
        "tcp://h:x",
        "tcp://h:65536",
        "tcp://h:\u0661",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """The error says what is expected."""
    with pytest.raises(InvalidSettings, match="unix:PATH"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.8.9.1", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    """Only names and numbers of this machine are loopback."""
    assert TcpAddress(host, 1).is_loopback is expected
