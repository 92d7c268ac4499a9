"""The private copies of models, a folder for each process of a worker.

A worker may outlive its supervisor for a while, beside a successor of the same name, so that each
process has copies of its own and removes no others but those of processes that are gone.

Layout: ``models/WORKER/PROCESS`` in the run folder, and beside it ``PROCESS.lock``, which is there
before the folder and after it, and is locked for as long as the process lives. The lock is of the
process alone: what it leaves running when it is killed keeps no copies.
"""

import fcntl
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from salver.core.durable import storage_errors

_FOLDER, _LOCK = "models", ".lock"
_TRIES = 100


class Copies:
    """One process's own copies, in ``folder``; any thread may call.

    ``process`` tells it from every other process of the worker, earlier and later ones too.
    """

    def __init__(self, run: Path, worker: str, process: str) -> None:
        self._run, self._worker = run, worker
        self.folder = run / _FOLDER / worker / process
        self._lock = self.folder.with_name(process + _LOCK)
        self._mutex = threading.Lock()
        self._held: int | None = None

    def clear(self) -> None:
        """Remove what other processes of the worker left that are gone, before any claim."""
        forget(self._run, self._worker)

    def claim(self) -> None:
        """Keep others from removing the folder, which need not be there yet.

        Raises ``StorageFull`` or ``OSError``.
        """
        with self._mutex, storage_errors(self._lock):
            if self._held is None:
                self._held = _locked(self._lock)

    def release(self) -> None:
        """Remove the copies; harmless when there are none."""
        with self._mutex:
            if self._held is not None:
                _remove(self._lock)
                os.close(self._held)
                self._held = None
        with suppress(OSError):
            self.folder.parent.rmdir()


def forget(run: Path, worker: str) -> None:
    """Remove the copies of a worker's processes that are gone; may take a while."""
    folder = run / _FOLDER / worker
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.suffix == _LOCK:
                _remove_if_gone(path)
            elif not path.with_name(path.name + _LOCK).exists():
                shutil.rmtree(path, ignore_errors=True)
        folder.rmdir()


def clear(run: Path) -> None:
    """Remove those of all workers, also of such that no plan knows any more."""
    for folder in run.glob(f"{_FOLDER}/*"):
        forget(run, folder.name)


def _locked(lock: Path) -> int:
    """Return the descriptor that holds the lock; whoever clears may take file or folder away."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError, FileExistsError):
            lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX)
                if _is_at(descriptor, lock):
                    return descriptor
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)
    raise FileNotFoundError(f"{lock} is taken away as often as it is made")


def _remove_if_gone(lock: Path) -> None:
    """Remove what a lock stands for; what cannot be locked is left alone."""
    with suppress(OSError):
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, lock):
                _remove(lock)
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, lock: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), lock.stat())


def _remove(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)
