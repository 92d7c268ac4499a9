"""Models that answer in chunks, asked by callers who want one answer."""

from typing import Any

import orjson

from salver.core.settings import HttpSettings
from tests.gateway.inprocess import RunningServer, exchange_bytes, post, split_reply

INFER = "/v2/models/identity-fp32/infer"


def ask(server: RunningServer, widths: str) -> tuple[int, Any]:
    """Have the model answer in chunks so wide; return status and document."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    body = orjson.dumps({"inputs": [item], "parameters": {"chunks": widths}})
    status, _, answer = split_reply(exchange_bytes(server.port, post(INFER, body)))
    return status, orjson.loads(answer)


def test_chunks_become_one_answer(server: RunningServer) -> None:
    """They are joined along the first axis."""
    status, document = ask(server, "2,2,2")
    assert status == 200
    assert document["outputs"][0]["shape"] == [3, 2]


def test_chunks_that_cannot_be_joined_are_the_models_fault(server: RunningServer) -> None:
    """The caller gets a coded error, its place is free again, and the next one is answered."""
    status, document = ask(server, "2,3")
    assert (status, document["code"]) == (500, "model_failed")
    assert ask(server, "1,1")[0] == 200
    server.call(drained(server))
    assert [one.code for one in server.exchanges[-2:]] == ["model_failed", ""]
    assert server.exchanges[-1].context.principal.in_flight == 0


def test_a_stream_without_end_is_cut_off() -> None:
    """More than one answer may hold is refused while it comes, and the work is cancelled."""
    with RunningServer(HttpSettings(max_body_bytes=4096)) as server:
        status, document = ask(server, ",".join(["500"] * 50))
        assert (status, document["code"]) == (500, "model_failed")
        assert server.computer.contexts[-1].cancelled
        assert ask(server, "1,1")[0] == 200


async def drained(server: RunningServer) -> None:
    """Hand the finished exchanges to their subscriber."""
    server.ring.drain()
