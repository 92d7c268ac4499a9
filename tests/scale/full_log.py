"""The supervisor's part in a process of its own, whose standard error may be a full disk.

Kills a child three times and waits for its successor, then lets the lifeguard kill a silent one.
The child's own log cannot be opened either. Prints how often it was restarted.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from salver.core.clock import SystemClock
from salver.core.settings import Settings, SupervisorSettings
from salver.scale.local.lifeguard import Lifeguard
from salver.scale.local.process import Child
from salver.scale.local.start import Command, Process, start_anew
from salver.wire.pulse import Beat, expect

SETTINGS = SupervisorSettings(backoff_initial_s=0.02, backoff_max_s=0.1)


class Starter:
    """Starts processes, but for the second one, as where the system has no room for more."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, command: Command, log: int) -> Process:
        """Start a process; raises ``OSError`` the second time."""
        self.asked += 1
        if self.asked == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await start_anew(command, log)


async def successor(child: Child, pid: int | None) -> int:
    """Return the next process's number."""
    async with asyncio.timeout(60):
        while child.pid in (None, pid):  # noqa: ASYNC110 - a process says nothing
            await asyncio.sleep(0.01)
    assert child.pid is not None
    return child.pid


async def main(folder: Path) -> None:
    """Kill, and see others come."""
    command = Command("own-0", "worker", "tests.scale.sleeper", ())
    (folder / "own-0.log").mkdir()
    child = Child(command, folder, SETTINGS, SystemClock(), lambda: None, Starter())
    guard = Lifeguard(folder, Settings(), SystemClock(), lambda: [child])
    child.start()
    pid = await successor(child, None)
    for _ in range(3):
        os.kill(pid, signal.SIGKILL)
        pid = await successor(child, pid)
    expect(folder, "own-0", Beat(1, 2))
    for _ in range(3):
        guard.look()
    await successor(child, pid)
    await child.stop(5.0)
    print(child.restarts)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
