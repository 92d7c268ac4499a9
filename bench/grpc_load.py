"""Load generator for gRPC whose `grpc-timeout` and `traceparent` change in every call.

`h2load` sends the same header block again and again, which a server may remember; clients with
deadlines and traces do not. Metadata that stays is indexed in the first call of a connection, as
gRPC's clients do it, and what changes is a literal that is never indexed.
Run: `python -m bench.grpc_load PORT BODY METADATA SECONDS CONNECTIONS STREAMS`, with a file of the
message with its prefix, and the metadata as a JSON object. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import uvloop

from bench.ceiling import http2
from bench.grpc_message import PATH

CONNECT_TIMEOUT_S = 10.0
TABLE_BYTES = 4096
FIRST_DYNAMIC_INDEX = 62
TIMEOUT_FIRST_US, TIMEOUT_STEPS = 10_000_000, 1_000_000
TRACE_ID = b"4bf92f3577b34da6a3ce929d0e0e4736"
_SHORT = 126
_FIXED = {":method": "POST", ":scheme": "http", ":path": PATH, "te": "trailers"}


def _literal(kind: int, name: str, value: str) -> bytes:
    """Return a literal with a literal name; `kind` says whether it is indexed (RFC 7541, 6.2)."""
    if max(len(name), len(value)) > _SHORT:
        raise ValueError(f"{name} is too long for a one-byte length")
    return bytes((kind, len(name))) + name.encode() + bytes((len(value),)) + value.encode()


class Frames:
    """Frames of the calls of one connection."""

    def __init__(self, port: int, metadata: Mapping[str, str], body: bytes, serial: int) -> None:
        fields = {
            **_FIXED,
            ":authority": f"127.0.0.1:{port}",
            "content-type": "application/grpc",
            **metadata,
        }
        ordered = sorted(fields.items(), key=lambda field: not field[0].startswith(":"))
        self._first = b"".join(_literal(0x40, name, value) for name, value in ordered)
        last = FIRST_DYNAMIC_INDEX + len(ordered) - 1
        self._others = bytes(0x80 | index for index in range(last, FIRST_DYNAMIC_INDEX - 1, -1))
        self._serial = serial
        self._timeout = _literal(0x10, "grpc-timeout", "00000000u")[:-9]
        self._trace = _literal(0x10, "traceparent", "0" * 55)[:-55] + b"00-" + TRACE_ID + b"-"
        size = len(self._others) + len(self._timeout) + 9 + len(self._trace) + 19
        self._heads = (self._head(size - len(self._others) + len(self._first)), self._head(size))
        self._data = http2.frame(http2.DATA, http2.END_STREAM, 0, body)[:5]
        self._body = body

    @staticmethod
    def _head(size: int) -> bytes:
        return http2.frame(http2.HEADERS, http2.END_HEADERS, 0, bytes(size))[:5]

    def call(self, stream: int) -> bytes:
        """Return the frames of the next call; the first of them is to be sent first."""
        self._serial = serial = self._serial + 1
        number = stream.to_bytes(4, "big")
        later = stream > 1
        return b"".join(
            (
                self._heads[later],
                number,
                self._others if later else self._first,
                self._timeout,
                b"%08du" % (TIMEOUT_FIRST_US + serial % TIMEOUT_STEPS),
                self._trace,
                b"%016x-01" % serial,
                self._data,
                number,
                self._body,
            )
        )


class Tally:
    """What all connections counted together."""

    def __init__(self) -> None:
        self.durations_ns: list[int] = []
        self.errors = 0
        self.open = True


class Caller(asyncio.Protocol):
    """One connection with a fixed number of calls in flight."""

    def __init__(self, frames: Frames, streams: int, body_bytes: int, tally: Tally) -> None:
        self._calls = frames
        self._streams = streams
        self._body_bytes = body_bytes
        self._tally = tally
        self._frames = http2.FrameReader()
        self._blocks = http2.HeaderBlocks()
        self._begun_ns: dict[int, int] = {}
        self._next = 1
        self._window_bytes = http2.FIRST_WINDOW_BYTES
        self._received_bytes = 0
        self._waiting = 0
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send preface and settings; calls begin once the server's settings are known."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(http2.PREFACE + http2.opening())

    def connection_lost(self, exc: Exception | None) -> None:
        """Calls in flight have failed, unless the measurement is over."""
        del exc
        if self._tally.open:
            self._tally.errors += len(self._begun_ns) + 1

    def data_received(self, data: bytes) -> None:
        """Read frames, and send what they let go."""
        now_ns = time.monotonic_ns()
        for kind, flags, stream, payload in self._frames.feed(data):
            if kind == http2.HEADERS:
                fields = self._blocks.decode(http2.block_of(flags, payload))
                if flags & http2.END_STREAM:
                    self._done(stream, now_ns, fields.get(b"grpc-status") == b"0")
            elif kind == http2.DATA:
                self._received_bytes += len(payload)
            else:
                self._other(kind, flags, stream, payload, now_ns)
        self._fill(now_ns)
        if self._received_bytes > http2.WINDOW_STEP_BYTES // 2:
            self._out.append(http2.window_update(self._received_bytes))
            self._received_bytes = 0
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _done(self, stream: int, now_ns: int, good: bool) -> None:
        begun_ns = self._begun_ns.pop(stream)
        if self._tally.open:
            if good:
                self._tally.durations_ns.append(now_ns - begun_ns)
            else:
                self._tally.errors += 1
            self._waiting += 1

    def _other(self, kind: int, flags: int, stream: int, payload: bytes, now_ns: int) -> None:
        if kind == http2.WINDOW_UPDATE and not stream:
            self._window_bytes += int.from_bytes(payload, "big")
        elif kind == http2.RST_STREAM and stream in self._begun_ns:
            self._done(stream, now_ns, good=False)
        elif kind == http2.PING and not flags & http2.ACK:
            self._out.append(http2.frame(http2.PING, http2.ACK, 0, payload))
        elif kind == http2.SETTINGS and not flags & http2.ACK:
            size = http2.settings_of(payload).get(http2.HEADER_TABLE_SIZE, TABLE_BYTES)
            if size < TABLE_BYTES:
                raise ValueError(
                    f"the server's header table has {size} bytes, {TABLE_BYTES} wanted"
                )
            self._out.append(http2.frame(http2.SETTINGS, http2.ACK, 0, b""))
            if self._next == 1:
                self._waiting = self._streams

    def _fill(self, now_ns: int) -> None:
        """Begin as many calls as are due and the connection's window has room for."""
        while self._waiting and self._window_bytes >= self._body_bytes:
            self._waiting -= 1
            self._window_bytes -= self._body_bytes
            stream, self._next = self._next, self._next + 2
            self._begun_ns[stream] = now_ns
            self._out.append(self._calls.call(stream))


def figures(tally: Tally, elapsed_s: float) -> dict[str, float]:
    """Return the figures of a run; percentiles are 0 where no call succeeded."""
    durations = sorted(tally.durations_ns) or [0]
    return {
        "requests_per_s": len(tally.durations_ns) / elapsed_s,
        "p50_us": durations[len(durations) // 2] / 1e3,
        "p99_us": durations[int(len(durations) * 0.99)] / 1e3,
        "errors": tally.errors,
    }


async def _connect(caller: Caller, port: int) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        transport, _ = await loop.create_connection(lambda: caller, "127.0.0.1", port)
    return transport


async def load(arguments: list[str]) -> dict[str, float]:
    """Measure; see the module's first lines for the arguments."""
    port, metadata, seconds = int(arguments[0]), json.loads(arguments[2]), float(arguments[3])
    body = await asyncio.to_thread(Path(arguments[1]).read_bytes)
    streams = int(arguments[5])
    tally = Tally()
    begin, begin_cpu = time.monotonic(), time.process_time()
    transports = []
    for number in range(int(arguments[4])):
        frames = Frames(port, metadata, body, number << 40)
        caller = Caller(frames, streams, len(body), tally)
        transports.append(await _connect(caller, port))
    await asyncio.sleep(seconds)
    tally.open = False
    elapsed_s, cpu_s = time.monotonic() - begin, time.process_time() - begin_cpu
    for transport in transports:
        transport.close()
    return {**figures(tally, elapsed_s), "cpu_share": cpu_s / elapsed_s}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(load(sys.argv[1:]))))
