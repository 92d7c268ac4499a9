"""Worker of the ceiling: ONNX Runtime behind a Unix socket.

Everything that one read brings is one batch, and its answers leave as one write.
Run: `python -m bench.ceiling.worker SOCKET MODEL`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import numpy as np
import onnxruntime
import uvloop

from bench.ceiling.wire import ANSWER, HEADER, FrameBuffer

FEATURES = 30


class Worker(asyncio.Protocol):
    """One connection from the gateway."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._frames = FrameBuffer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Run what arrived as one batch."""
        frames = self._frames.feed(data)
        if not frames:
            return
        rows = np.frombuffer(b"".join([payload for _, payload in frames]), np.float32)
        labels, probabilities = self._session.run(None, {"features": rows.reshape(-1, FEATURES)})
        answers = zip(frames, labels.tolist(), probabilities.tolist(), strict=True)
        self._transport.write(
            b"".join(
                [
                    HEADER.pack(frame_id, ANSWER.size) + ANSWER.pack(label, *pair)
                    for (frame_id, _), label, pair in answers
                ]
            )
        )


async def serve(path: str, model: str) -> None:
    """Load the model with one intra-op thread, then listen until the process is ended."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    server = await asyncio.get_running_loop().create_unix_server(lambda: Worker(session), path)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2]))
