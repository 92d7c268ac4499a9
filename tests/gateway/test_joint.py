"""Answers that come together from the engine reach each caller as if they had come alone."""

import gzip
import math
import socket
import time

import numpy as np
import orjson
import pytest

from salver.core.request import JointResponse
from tests.gateway.inprocess import RunningServer, post, read_all, split_reply

INFER = "/v2/models/identity-fp32/infer"


def row(value: float, **more: object) -> bytes:
    """Return a body with one row of two equal numbers."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, value]}
    return orjson.dumps({"inputs": [item], **more})


def binary(value: float) -> tuple[bytes, str]:
    """Return a body whose tensor is raw bytes, and the header that says so."""
    raw = np.full(2, value, np.float32).tobytes()
    item = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, 2],
        "parameters": {"binary_data_size": len(raw)},
    }
    json = orjson.dumps({"inputs": [item]})
    return json + raw, f"Inference-Header-Content-Length: {len(json)}"


def ask(server: RunningServer, *requests: bytes) -> list[socket.socket]:
    """Send each request on a connection of its own and wait until all are held."""
    server.computer.hold = True
    before = len(server.computer.waiting)
    clients = []
    for request in requests:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        client.sendall(request)
        clients.append(client)
        deadline = time.monotonic() + 10
        while len(server.computer.waiting) < before + len(clients):
            assert time.monotonic() < deadline
            time.sleep(0.001)
    return clients


def test_each_gets_its_own(server: RunningServer) -> None:
    """Values and ids reach the one who asked; closing and keeping the connection both work."""
    requests = [post(INFER, row(float(n), id=f"caller-{n}")) for n in range(5)]
    clients = ask(server, *requests)
    server.release_jointly()
    for number, client in enumerate(clients):
        status, headers, body = split_reply(read_all(client))
        document = orjson.loads(body)
        assert status == 200
        assert document["id"] == f"caller-{number}"
        assert document["outputs"][0]["data"] == [number, number]
        assert document["outputs"][0]["shape"] == [1, 2]
        assert headers["content-length"] == str(len(body))
        assert len(headers["x-salver-request-id"]) == 40
        client.close()


def test_pipelined_requests_stay_in_order(server: RunningServer) -> None:
    """Several of one connection may be answered together, in the order they were asked."""
    parts = [post(INFER, row(float(n)), close=n == 3) for n in range(4)]
    server.computer.hold = True
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"".join(parts))
        deadline = time.monotonic() + 10
        while len(server.computer.waiting) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        server.release_jointly()
        data = read_all(client)
    values = [orjson.loads(part)["outputs"][0]["data"][0] for part in bodies_of(data)]
    assert values == [0, 1, 2, 3]


def bodies_of(data: bytes) -> list[bytes]:
    """Return the bodies of responses that follow each other."""
    bodies = []
    while data:
        _, headers, rest = split_reply(data)
        size = int(headers["content-length"])
        bodies.append(rest[:size])
        data = rest[size:]
    return bodies


def test_what_json_lacks_fails_alone(server: RunningServer) -> None:
    """One caller's NaN is its own error; those beside it get their answers."""
    nan, header = binary(math.nan)
    clients = ask(server, post(INFER, row(1.0)), post(INFER, nan, header), post(INFER, row(3.0)))
    server.release_jointly()
    first, second, third = [split_reply(read_all(client)) for client in clients]
    assert (first[0], third[0]) == (200, 200)
    assert orjson.loads(third[2])["outputs"][0]["data"] == [3, 3]
    assert orjson.loads(second[2])["code"] == "non_finite_output"
    for client in clients:
        client.close()


def test_special_wishes_are_kept(server: RunningServer) -> None:
    """Binary and compressed answers, and one that is wanted by name, beside plain ones."""
    clients = ask(
        server,
        post(INFER, row(1.0)),
        post(INFER, row(2.0, parameters={"binary_data_output": True})),
        post(INFER, row(3.0), "Accept-Encoding: gzip"),
        post(INFER, row(4.0, outputs=[{"name": "y"}])),
    )
    server.release_jointly()
    plain, raw, packed, named = [split_reply(read_all(client)) for client in clients]
    assert orjson.loads(plain[2])["outputs"][0]["data"] == [1, 1]
    size = int(raw[1]["inference-header-content-length"])
    assert np.frombuffer(raw[2][size:], np.float32).tolist() == [2, 2]
    body = gzip.decompress(packed[2]) if "content-encoding" in packed[1] else packed[2]
    assert orjson.loads(body)["outputs"][0]["data"] == [3, 3]
    assert orjson.loads(named[2])["outputs"][0]["data"] == [4, 4]
    for client in clients:
        client.close()


def test_a_caller_who_left_holds_up_nobody(server: RunningServer) -> None:
    """An answer for a closed connection is dropped and counted as cancelled."""
    clients = ask(server, *[post(INFER, row(float(n)), close=False) for n in range(3)])
    clients[1].close()
    deadline = time.monotonic() + 10
    while not server.computer.contexts[-2].cancelled:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    server.release_jointly()
    for number in (0, 2):
        data = b""
        while b"]}]}" not in data:
            data += clients[number].recv(65536)
        assert orjson.loads(split_reply(data)[2])["outputs"][0]["data"] == [number, number]
        clients[number].close()
    server.call(drained(server))
    assert sorted(one.code for one in server.exchanges[-3:]) == ["", "", "cancelled"]


def test_a_fault_in_writing_them_jointly_is_answered(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while many are written at once, each is then written alone."""

    def broken(response: JointResponse) -> list[bytes]:
        raise TypeError("odd")

    clients = ask(server, *[post(INFER, row(float(n))) for n in range(3)])
    monkeypatch.setattr("salver.gateway.oip.infer.encode_joint", broken)
    server.release_jointly()
    for number, client in enumerate(clients):
        status, _, body = split_reply(read_all(client))
        assert status == 200
        assert orjson.loads(body)["outputs"][0]["data"] == [number, number]
        client.close()


async def drained(server: RunningServer) -> None:
    """Hand the finished exchanges to their subscriber."""
    server.ring.drain()
