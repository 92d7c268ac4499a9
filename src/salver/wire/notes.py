"""Files that say one thing of each worker, in a folder that they share with others."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Notes(NamedTuple):
    """The notes of one kind, told from others by their prefix."""

    prefix: str

    def path(self, folder: Path, worker: str) -> Path:
        """Return where the note of a worker is."""
        return folder / f"{self.prefix}{worker}"

    def forget(self, folder: Path, worker: str) -> None:
        """Remove the note of a worker that is gone for good."""
        with suppress(OSError):
            self.path(folder, worker).unlink()

    def clear(self, folder: Path) -> None:
        """Remove what workers of an earlier server left behind."""
        for path in folder.glob(f"{self.prefix}*"):
            path.unlink(missing_ok=True)
