"""What runs, written down for `salver status` and for control."""

import json
from collections.abc import Callable
from pathlib import Path

from salver.scale.local.later import Later


class Table:
    """Component that keeps a file as ``told`` has it; without room for it now, then later."""

    def __init__(self, path: Path, told: Callable[[], object]) -> None:
        self._path = path
        self._told = told
        self._later = Later(self.write)

    def write(self) -> None:
        """Write it anew."""
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(self._told()))
            temporary.replace(self._path)
        except OSError as error:
            self._later.failed(self._path.name, f"{self._path} not written: {error}")
        else:
            self._later.worked(self._path.name)

    def stop(self) -> None:
        """Write no more by itself."""
        self._later.stop()
