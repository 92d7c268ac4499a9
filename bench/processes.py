"""Start, measure and end groups of processes.

Only processes started here are ever signalled: each group has its own session, and a group is
its session plus all descendants of its first process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.failure import BenchError

STOP_TIMEOUT_S = 15.0
REST_TIMEOUT_S = 2.0
"""For what outlives the command: to end by itself, then after SIGKILL."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a group in KiB; `pss` counts a page shared by n processes as 1/n."""

    pss_kib: int
    rss_kib: int
    processes: int


class Group:
    """One command and everything it starts; output goes to `log`."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._command = [str(part) for part in command]
        self._log = log
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command in a session of its own."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise `BenchError` with the end of the log if the command has ended."""
        if self._process is not None and self._process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise BenchError(f"{self._command[0]} ended ({self._process.returncode}):\n{tail}")

    def pids(self) -> set[int]:
        """The command, its descendants, and whatever shares its session."""
        if self._process is None:
            return set()
        root = self._process.pid
        parents, found = {}, {root}
        for pid, parent, session in _process_table():
            parents[pid] = parent
            if session == root:
                found.add(pid)
        grown = True
        while grown:
            children = {pid for pid, parent in parents.items() if parent in found}
            grown = not children <= found
            found |= children
        return found

    def memory(self) -> Memory:
        """Sum over all live processes of the group."""
        figures = [figure for pid in self.pids() if (figure := _memory_kib(pid))]
        return Memory(sum(f[0] for f in figures), sum(f[1] for f in figures), len(figures))

    def stop(self) -> None:
        """SIGTERM to the command, then SIGKILL to what is left of the group."""
        if self._process is None:
            return
        rest = {pid: ticks for pid in self.pids() if (ticks := _start_ticks(pid)) is not None}
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        rest.pop(self._process.pid, None)
        if not _ended(rest, REST_TIMEOUT_S):
            for pid, ticks in rest.items():
                with contextlib.suppress(ProcessLookupError):
                    if _start_ticks(pid) == ticks:
                        os.kill(pid, signal.SIGKILL)
            _ended(rest, REST_TIMEOUT_S)
        self._process = None


def _ended(started: Mapping[int, int], timeout_s: float) -> bool:
    """Wait until none of these processes, named by pid and start time, runs any more."""
    deadline = time.monotonic() + timeout_s
    while any(_start_ticks(pid) == ticks for pid, ticks in started.items()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (index 0 is field 3), or None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields


def _start_ticks(pid: int) -> int | None:
    """Start time in clock ticks since boot: with the pid it names one process for good."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def _process_table() -> list[tuple[int, int, int]]:
    """`(pid, parent, session)` of every process."""
    return [
        (int(entry), int(fields[1]), int(fields[3]))
        for entry in os.listdir("/proc")
        if entry.isdigit() and (fields := _stat_fields(int(entry)))
    ]


def _memory_kib(pid: int) -> tuple[int, int] | None:
    """`(pss, rss)` of one process, or None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return int(values["Pss"]), int(values["Rss"])
