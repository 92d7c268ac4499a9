"""A worker's process in a control group of its own."""

import signal
from collections.abc import Callable
from pathlib import Path

from salver.scale.local.groups.keeper import Keeper
from salver.scale.local.start import Process


class GroupedProcess:
    """A process as ``start.Process`` has it, whose group goes when it has ended.

    ``ended`` is told the process's number, and whether the group had no memory left for it.
    """

    def __init__(
        self,
        process: Process,
        keeper: Keeper,
        folders: tuple[Path, ...],
        ended: Callable[[int, bool], None],
    ) -> None:
        self._process = process
        self._keeper = keeper
        self._folders = folders
        self._ended = ended
        self._is_over = False
        self._is_own_kill = False
        self.out_of_memory = False

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Return its ``returncode`` when it has ended, and why is known."""
        status = await self._process.wait()
        if not self._is_over:
            self._is_over = True
            was_killed = status == -signal.SIGKILL and not self._is_own_kill
            self.out_of_memory = was_killed and self._keeper.memory_kills(self._folders) > 0
            self._ended(self.pid, self.out_of_memory)
            self._keeper.release(self._folders)
        return status

    def send_signal(self, number: int, /) -> None:
        """Signal it; raises ``ProcessLookupError`` when it is gone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, and not for want of memory; raises ``ProcessLookupError`` when gone."""
        self._process.kill()
        self._is_own_kill = True
