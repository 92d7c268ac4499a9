"""Fixtures of the tests of gRPC."""

from collections.abc import Iterator

import grpc
import pytest

from tests.gateway.inprocess import RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Give a server that a whole module shares."""
    with RunningServer() as running:
        yield running


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    """Give a channel of the real gRPC library to it."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as opened:
        yield opened
