"""Fixtures of the tests of HTTP/2."""

from collections.abc import Iterator

import pytest

from tests.gateway.inprocess import RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Give a server that a whole module shares."""
    with RunningServer() as running:
        yield running
