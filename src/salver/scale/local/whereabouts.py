"""Where this server is found, written down for clients while it may be asked."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from salver.core.presence import announce, withdraw
from salver.observe.lines import say

_OTHERS = ("processes.json", "control.json")


class Whereabouts:
    """Component that keeps the file in the folder ``run``; others keep theirs beside it."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._path = run / "supervisor.json"
        self._descriptor: int | None = None

    def start(self, addresses: Mapping[str, str]) -> None:
        """Say where the server answers; raises ``StorageFull``."""
        self._descriptor = announce(self._path, {"pid": os.getpid(), **addresses})

    def leave(self) -> None:
        """Take the addresses back before anybody else can have their ports.

        Who this is stays, for those who hurry it; without room for that nothing does.
        """
        if self._descriptor is None:
            return
        before, self._descriptor = self._descriptor, None
        try:
            self._descriptor = announce(self._path, {"pid": os.getpid()})
        except Exception as error:
            # The server ends all the same, and nobody may be sent where it was.
            say(f"{self._path} not written: {error}")
        withdraw(self._path, before)

    def stop(self) -> None:
        """Remove what was written, where the disk lets it, of processes that were killed too."""
        if self._descriptor is not None:
            withdraw(self._path, self._descriptor)
            self._descriptor = None
        for name in _OTHERS:
            with contextlib.suppress(OSError):
                (self._run / name).unlink()
