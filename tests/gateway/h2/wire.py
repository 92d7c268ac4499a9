"""A client that sends whatever frames a test wants, and reads what comes back."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

from hpack import Decoder, Encoder

from salver.gateway.h2 import frames as f
from salver.gateway.http.prelude import PREFACE

GET_LIVE = {
    b":method": b"GET",
    b":scheme": b"http",
    b":path": b"/v2/health/live",
    b":authority": b"test",
}


class Frame(NamedTuple):
    """One frame that came back."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Wire:
    """A connection of raw frames; a context manager."""

    def __init__(self, port: int, *, greets: bool = True) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._rest = b""
        self.encoder = Encoder()
        self.decoder = Decoder()
        if greets:
            self.send(PREFACE + f.settings_frame({}))

    def __enter__(self) -> Self:
        """Return the wire."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a server that has closed already is fine."""
        with contextlib.suppress(OSError):
            self._socket.sendall(data)

    def end(self) -> None:
        """Send no more."""
        self._socket.shutdown(socket.SHUT_WR)

    def headers(
        self, stream: int, fields: dict[bytes, bytes] | None = None, *, ends: bool = True
    ) -> bytes:
        """Return a request's HEADERS."""
        block = self.encoder.encode(list((fields or GET_LIVE).items()), huffman=False)
        flags = f.END_HEADERS | (f.END_STREAM if ends else 0)
        return f.frame(f.HEADERS, flags, stream, block)

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the server closes."""
        while True:
            head = self._read(f.HEAD_BYTES)
            if len(head) < f.HEAD_BYTES:
                return
            high, low, kind, flags, stream = f.HEAD.unpack(head)
            yield Frame(kind, flags, stream, self._read(high << 16 | low))

    def until(self, kind: int, stream: int | None = None) -> Frame:
        """Return the next frame of a kind."""
        for frame in self.frames():
            if frame.kind == kind and (stream is None or frame.stream == stream):
                return frame
        raise AssertionError(f"the server closed without a frame of kind {kind}")

    def verdict(self) -> tuple[str, int]:
        """Return how the server answered a fault: goaway or reset, and the code."""
        for frame in self.frames():
            if frame.kind == f.GOAWAY:
                return "goaway", struct.unpack(">II", frame.payload[:8])[1]
            if frame.kind == f.RST_STREAM:
                return "reset", f.word(frame.payload)
        return "closed", 0

    def answer(self, stream: int) -> tuple[dict[str, str], bytes, dict[str, str]]:
        """Return head, body and trailers of an answer."""
        heads: list[dict[str, str]] = []
        body = bytearray()
        for frame in self.frames():
            if frame.kind == f.HEADERS:
                fields = dict(self.decoder.decode(frame.payload))
                if frame.stream == stream:
                    heads.append({str(name): str(value) for name, value in fields.items()})
            elif frame.stream != stream:
                continue
            elif frame.kind == f.DATA:
                body += frame.payload
            elif frame.kind == f.RST_STREAM:
                raise AssertionError(f"stream {stream} was reset: {frame.payload!r}")
            if frame.stream == stream and frame.flags & f.END_STREAM:
                return heads[0], bytes(body), heads[1] if len(heads) > 1 else {}
        raise AssertionError("the server closed before its answer was complete")

    def _read(self, size: int) -> bytes:
        while len(self._rest) < size:
            try:
                part = self._socket.recv(65536)
            except ConnectionResetError:
                part = b""
            if not part:
                break
            self._rest += part
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
