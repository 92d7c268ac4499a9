"""What a gateway keeps of requests that are over, or were refused."""

import gc
import socket
from collections.abc import Iterator

import orjson
import pytest

from salver.core.request import InferenceRequest, form_of
from salver.core.settings import HttpSettings
from salver.core.tensor import Tensor
from salver.gateway.oip import decode
from salver.gateway.oip.decode import decode_member
from tests.gateway.inprocess import RunningServer, post, until

COUNT = 400_000


def large_request() -> bytes:
    """Return a request of 1.6 MB whose answer is as large."""
    given = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, COUNT],
        "parameters": {"binary_data_size": 4 * COUNT},
    }
    head = orjson.dumps({"inputs": [given], "parameters": {"binary_data_output": True}})
    line = b"Inference-Header-Content-Length: %d\r\n" % len(head)
    request = post("/v2/models/identity-fp32/infer", head + bytes(4 * COUNT))
    return request.replace(b"\r\n", b"\r\n" + line, 1)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Keep the cycle collector off: a busy gateway runs it after very many objects only."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_client_that_left_costs_nothing() -> None:
    """The body of a connection that is gone is free at once, without a collection."""
    request = large_request()
    with RunningServer() as server:
        assert server.server is not None
        memory, connections = server.server.memory, server.server
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(request[: len(request) // 2])
            until(lambda: connections.connections == 1)
            assert memory.kept_bytes == 0
        until(lambda: memory.kept_bytes >= 4 * COUNT)


@pytest.mark.usefixtures("no_collector")
def test_an_idle_connection_keeps_no_large_body() -> None:
    """Who waits with an open connection after an answer holds nothing of its request."""
    with RunningServer() as server:
        assert server.server is not None
        memory = server.server.memory
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(large_request())
            got = 0
            while got < 4 * COUNT:
                got += len(client.recv(1 << 20))
            until(lambda: memory.kept_bytes >= 4 * COUNT)


def test_refused_shapes_are_not_remembered() -> None:
    """Thousands of dimensions are refused before anything of them is kept."""
    before = len(decode._packings)
    for number in range(20):
        item = {"name": f"n{number}", "datatype": "FP32", "shape": [1] * 5000, "data": [1]}
        assert decode_member(orjson.dumps({"inputs": [item]}), HttpSettings()) is None
    assert len(decode._packings) == before


def test_long_shapes_have_no_common_form() -> None:
    """A form with very many dimensions is not kept for others, as one with long names."""

    def form(dimensions: int) -> object:
        tensor = Tensor("x", "UINT8", (1,) * dimensions, b"1")
        return form_of(InferenceRequest("m", [tensor]))

    assert form(200) is form(200)
    assert form(300) is not form(300)
