"""Starting processes: what is started, and the plain way to do it."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from salver.observe.cgroup import PROCS

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a child: module, arguments, inherited sockets.

    ``door`` is a socket that it shall listen at, if there is one; ``groups`` are the folders of
    control groups that it shall be in.
    """

    identity: str
    role: str
    module: str
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    door: int | None = None
    groups: tuple[Path, ...] = ()

    @property
    def grouped(self) -> tuple[str, ...]:
        """The arguments, with the groups that it is to join."""
        return (*self.arguments, *(word for one in self.groups for word in ("--group", str(one))))


class Process(Protocol):
    """A child process, as asyncio shows those that it started."""

    @property
    def pid(self) -> int:
        """Number of the process."""
        ...

    @property
    def returncode(self) -> int | None:
        """How it ended: a status, or a signal's number as a negative one; None while it runs."""
        ...

    async def wait(self) -> int:
        """Return its ``returncode`` when it has ended."""
        ...

    def send_signal(self, signal: int, /) -> None:
        """Signal it; raises ``ProcessLookupError`` when it is gone."""
        ...

    def kill(self) -> None:
        """End it at once; raises ``ProcessLookupError`` when it is gone."""
        ...


Start = Callable[[Command, int], Awaitable[Process]]
"""Starts a command whose output goes to a descriptor; raises ``OSError``."""


async def start_anew(command: Command, log: int) -> Process:
    """Start a command in a fresh interpreter."""
    arguments, descriptors = command.grouped, command.descriptors
    if command.door is not None:
        arguments = (*arguments, "--listen-fd", str(command.door))
        descriptors = (*descriptors, command.door)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        command.module,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=descriptors,
        env={**os.environ, **command.environment},
        start_new_session=True,
        preexec_fn=partial(_begin, command.groups),
    )


def _begin(groups: tuple[Path, ...]) -> None:
    """Ask the kernel to end the child when the supervisor is killed, and be in its groups.

    So early that all of its memory counts there; it says itself what does not let it in.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    for folder in groups:
        with contextlib.suppress(OSError):
            (folder / PROCS).write_text("0")
