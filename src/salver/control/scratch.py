"""Where control keeps temporary files, as of the models that it examines."""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from salver.core.durable import storage_errors


def take_scratch(folder: Path) -> None:
    """Keep this process's temporary files in a folder of its own from now on, emptied first.

    What a killed process left there goes, which in the system's folder nobody could tell from
    another server's. Raises ``StorageFull`` where the folder is not there yet and has no room.
    """
    with storage_errors(folder):
        # Not removed itself: on a full disk there might be no room to make it again.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in folder.iterdir():
        shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            left.unlink()
    # Examinations run in folders of their own, and Python 3.11 keeps a relative path as it is.
    tempfile.tempdir = str(folder.absolute())
