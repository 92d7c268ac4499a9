"""Calls that nobody waits for never reach the model, on a whole server."""

import time
from pathlib import Path

import grpc

from salver.gateway.grpc.framing import PREFIX
from salver.gateway.h2 import frames as f
from tests import models
from tests.e2e.server import Server, wait_until
from tests.gateway.grpc.calls import SERVICE, begun, infer, infer_request, two_rows
from tests.gateway.h2.wire import Wire

CALLS = 3
ROUNDS = 150


def timed_out(port: int, message: bytes) -> Wire:
    """Begin a call with a deadline that only the server watches."""
    head = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"/{SERVICE}/ModelInfer".encode(),
        b":authority": b"test",
        b"content-type": b"application/grpc",
        b"grpc-timeout": b"200m",
    }
    wire = Wire(port)
    wire.send(wire.headers(1, head, ends=False))
    wire.send(f.frame(f.DATA, f.END_STREAM, 1, PREFIX.pack(0, len(message)) + message))
    return wire


def test_cancelled_and_late_calls_never_run(home: Path, tmp_path: Path) -> None:
    """They wait behind a slow batch, are given up, and are dropped; the server says what it did."""
    with Server(home) as server:
        server.push_scaled(tmp_path, path=models.onnx_slow(2, ROUNDS))
        server.ok("deploy", "scaled")
        with grpc.insecure_channel(server.grpc_target) as channel:
            request = infer_request("scaled", {"x": two_rows([1.0])})
            assert infer(channel, request, timeout=60)

            def batches() -> float:
                return server.metric("salver_batches_total") or 0.0

            wait_until(lambda: batches() > 0, "the first batch is counted")
            time.sleep(1.5)  # a snapshot of the metrics later, it is all of them
            before = batches()
            running = begun(channel, request)
            wait_until(lambda: server.in_flight("scaled") == 1, "the slow batch is on its way")
            time.sleep(0.1)
            cancelled = [begun(channel, request) for _ in range(CALLS)]
            # The others have a deadline, after which they no longer wait.
            wait_until(lambda: server.in_flight("scaled") == 1 + CALLS, "they wait")
            late = [timed_out(server.port, request.SerializeToString()) for _ in range(CALLS)]
            client_s_own = [
                channel.unary_unary(f"/{SERVICE}/ModelInfer").future(
                    request.SerializeToString(), timeout=0.2
                )
                for _ in range(CALLS)
            ]
            for call in cancelled:
                call.cancel()
            for wire in late:
                with wire:
                    head, body, _ = wire.answer(1)
                status = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
                assert (head["grpc-status"], body) == (str(status), b"")
                assert head["x-salver-code"] == "deadline_exceeded"
            assert [call.code() for call in client_s_own] == (
                [grpc.StatusCode.DEADLINE_EXCEEDED] * CALLS
            )
            assert not running.done(), "the model was too fast for this to show anything"
            assert running.code() is grpc.StatusCode.OK
            wait_until(
                lambda: server.metric("salver_requests_dropped_total") == 3 * CALLS, "all dropped"
            )
            assert infer(channel, request, timeout=60)
            wait_until(lambda: batches() == before + 2, "the next batch is counted")
            time.sleep(1.5)
            assert batches() == before + 2
