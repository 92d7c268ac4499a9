"""Tells the service manager how the server is, as sd_notify(3) has it; nobody where there is none.

The manager (systemd, podman) listens at a datagram socket that an environment variable names.
"""

import asyncio
import contextlib
import socket
from collections.abc import MutableMapping

from salver.observe.lines import say
from salver.scale.local.later import Later

READY = "READY=1"
STOPPING = "STOPPING=1"
_PING = "WATCHDOG=1"
_SOCKET, _PERIOD, _PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_USEC_PER_S = 1_000_000
_LEAST_PAUSE_S = 0.01
_MAX_STATUS = 512


class Notifier:
    """Component of the process ``pid``; what it is to know of the manager is in ``environment``."""

    def __init__(self, environment: MutableMapping[str, str], pid: int) -> None:
        self._environment = environment
        self._pid = pid
        self._address = ""
        self._pause_s = 0.0
        self._socket: socket.socket | None = None
        self._untold: list[str] = []
        self._later = Later(self._tell_rest)
        self._task: asyncio.Task[None] | None = None

    def provision(self) -> None:
        """Take the variables out of the environment: children shall not speak for this process."""
        address, period, pid = (self._environment.pop(n, "") for n in (_SOCKET, _PERIOD, _PID))
        if not address:
            return
        if address[0] not in "/@" or len(address) == 1:
            say(f"{_SOCKET}: {address!r} is no path and no abstract address; nobody is notified")
            return
        self._address = f"\0{address[1:]}" if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # A manager that is busy keeps nobody waiting here.
        self._socket.setblocking(False)
        if period.isdecimal() and int(period) and pid in ("", str(self._pid)):
            self._pause_s = max(int(period) / _USEC_PER_S / 2, _LEAST_PAUSE_S)

    def start(self) -> None:
        """Give signs of life if the manager waits for some, each time that the loop comes round."""
        if self._pause_s:
            self._task = asyncio.create_task(self._ping_for_ever())

    def tell(self, state: str, status: str) -> None:
        """Tell a state, and a line for people; again later while the manager does not take it."""
        if self._socket is not None:
            line = " ".join(status.split())[:_MAX_STATUS]
            self._untold += [state, f"STATUS={line}"]
            self._tell_rest()

    async def stop(self) -> None:
        """Tell nothing more."""
        self._later.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell_rest(self) -> None:
        try:
            self._send("\n".join(self._untold))
        except OSError as error:
            self._later.failed(_SOCKET, f"the service manager was not told: {error}")
        else:
            self._untold.clear()
            self._later.worked(_SOCKET)

    def _send(self, message: str) -> None:
        assert self._socket is not None
        # Not connected, since the manager may open its socket anew.
        self._socket.sendto(message.encode(errors="surrogateescape"), self._address)

    async def _ping_for_ever(self) -> None:
        while True:
            # One that was not taken is made up for by the next, before the time is over.
            with contextlib.suppress(OSError):
                self._send(_PING)
            await asyncio.sleep(self._pause_s)
