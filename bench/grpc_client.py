"""A real gRPC client (grpcio) that reads answers before anything is timed.

Run: `python -m bench.grpc_client PORT METADATA FILE...`, each file a message with its prefix.
Prints a JSON list: the size of each answer, its small outputs as numbers, and for a large one
whether it is the request's own last bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc

from bench.grpc_message import PATH, PREFIX_BYTES, numbers, raw_outputs

TIMEOUT_S = 60.0
SMALL_BYTES = 1 << 16
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def ask(channel: Any, metadata: dict[str, str], request: bytes) -> dict[str, Any]:
    """Send one message and say what came back. Raises `grpc.RpcError`."""
    call = channel.unary_unary(PATH)
    answer = call(request, timeout=TIMEOUT_S, metadata=tuple(metadata.items()), wait_for_ready=True)
    outputs: dict[str, Any] = {}
    for name, (datatype, raw) in raw_outputs(answer).items():
        if len(raw) <= SMALL_BYTES:
            outputs[name] = numbers(datatype, raw)
        else:
            outputs[name] = raw == memoryview(request)[-len(raw) :]
    return {"size_bytes": len(answer) + PREFIX_BYTES, "outputs": outputs}


def main(port: str, metadata: str, files: list[str]) -> None:
    """Ask with each file in turn."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", _UNLIMITED) as channel:
        messages = [Path(file).read_bytes()[PREFIX_BYTES:] for file in files]
        print(json.dumps([ask(channel, json.loads(metadata), message) for message in messages]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
