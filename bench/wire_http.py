"""A small blocking HTTP client over one kept-alive connection, bounded in time."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

HEAD_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server answers, and the headers it wants beyond the usual ones."""

    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names in lower case) and the body, a view into the connection's buffer."""

    status: int
    headers: Mapping[str, str]
    body: memoryview


class Connection:
    """One connection; an answer's body is valid until the next call."""

    def __init__(self, target: Target, timeout_s: float, answer_limit: int) -> None:
        self._target = target
        self._socket = socket.create_connection(("127.0.0.1", target.port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(answer_limit + HEAD_LIMIT))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def post(self, body: bytes | memoryview, headers: Mapping[str, str]) -> Answer:
        """Send one POST and read its answer. Raises `OSError` or `ValueError`."""
        lines = [f"POST {self._target.path} HTTP/1.1", "Host: 127.0.0.1"]
        fields = {**self._target.headers, **headers, "Content-Length": str(len(body))}
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._socket.sendall(body)
        return self._read()

    def _read(self) -> Answer:
        filled, end = 0, -1
        while end < 0:
            filled += self._receive(filled)
            end = bytes(self._buffer[: min(filled, HEAD_LIMIT)]).find(b"\r\n\r\n")
            if end < 0 and filled >= HEAD_LIMIT:
                raise ValueError("answer head too long")
        status, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        begin = end + 4
        stop = begin + int(headers["content-length"])
        if stop > len(self._buffer):
            raise ValueError("answer longer than the buffer")
        while filled < stop:
            filled += self._receive(filled)
        return Answer(int(status.split()[1]), headers, self._buffer[begin:stop])

    def _receive(self, offset: int) -> int:
        count = self._socket.recv_into(self._buffer[offset:])
        if count == 0:
            raise ConnectionError("server closed the connection")
        return count


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
