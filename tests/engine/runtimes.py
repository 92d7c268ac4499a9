"""Runtimes that misbehave on demand, for the worker processes of these tests."""

import os
import threading
import time
from pathlib import Path

import numpy as np

from salver.core.errors import LoadFailed, ModelFailed
from salver.core.garbage import give_back
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch, RuntimeOptions

SIGNATURE = Signature((TensorSpec("x", "FP64", (-1, 1)),), (TensorSpec("y", "FP64", (-1, 1)),))
POISON = -666.0
REFUSED = -500.0
TALL = -400.0
STRANGE = -300.0
GARBLED = -200.0


class Panic(BaseException):
    """What libraries in Rust raise."""


ESCAPES = {"exit": SystemExit, "panic": Panic}
ESCAPING = {-888.0: SystemExit, -999.0: Panic}


def die(order: str) -> None:
    """End this process as long as the file exists that is named after ``die``.

    Not at once, so that whatever else loads at the same time has begun. The file gets a line for
    each end.
    """
    diary = Path(order.partition(" ")[2])
    if diary.exists():
        time.sleep(0.3)
        with diary.open("a") as file:
            file.write("it ended\n")
        os._exit(9)


class Affine:
    """Answers ``3x + 1`` for each row; some values kill, fail or answer nonsense."""

    seconds = 0.0

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load nothing; a file that says so makes it fail, hang or end the process."""
        order = (folder / "model.txt").read_text()
        if order == "fail":
            raise LoadFailed("this file is not meant to load")
        if order.startswith("slow"):
            time.sleep(1.0)
        if order.startswith("die"):
            die(order)
        if order in ESCAPES:
            raise ESCAPES[order]("it gave up")

    def signature(self) -> Signature | None:
        """Return the fixed signature."""
        return SIGNATURE

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Compute, or misbehave."""
        x = batch["x"]
        time.sleep(self.seconds)
        if (x == POISON).any():
            os._exit(9)
        for value, escape in ESCAPING.items():
            if (x == value).any():
                raise escape("this value is refused")
        if (x == REFUSED).any():
            raise ModelFailed("this value is refused")
        if (x == GARBLED).any():
            raise ValueError("this value is \ud800")
        if (x == TALL).any():
            return {"y": np.zeros((len(x) + 1, 1))}
        if (x == STRANGE).any():
            return {"y": np.zeros(len(x), dtype="M8[s]")}
        return {"y": 3 * x + 1}

    def unload(self) -> None:
        """Release nothing."""


class Ballast(Affine):
    """The same with a weight; the file says how many bytes, and seconds to load and to run."""

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Occupy memory."""
        size, load_s, run_s = (folder / "model.txt").read_text().split()
        time.sleep(float(load_s))
        self._memory: AnyArray | None = np.ones(int(size), np.uint8)
        self.seconds = float(run_s)

    def unload(self) -> None:
        """Release it."""
        self._memory = None
        give_back()


class SlowAffine(Affine):
    """The same, 20 ms a batch."""

    seconds = 0.02


class VerySlowAffine(Affine):
    """The same, half a second a batch."""

    seconds = 0.5


class Meeting(Affine):
    """The same, but a run ends only when another one runs beside it."""

    _meeting = threading.Barrier(2)

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Remember the thread."""
        self._thread = threading.get_ident()

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Wait for the other; it must be another instance, in the thread it was loaded in."""
        if threading.get_ident() != self._thread:
            raise ModelFailed("this is not the thread that loaded it")
        self._meeting.wait(10)
        return super().run(batch, outputs)


class Picky(Affine):
    """The same; it loads only so many times in a process, as the file says."""

    _loads = 0

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load, or not any more."""
        Picky._loads += 1
        if Picky._loads > int((folder / "model.txt").read_text()):
            raise LoadFailed("this one was one too many")


class Sparse(Affine):
    """The same; a process has room for three of it at a time."""

    _loaded = 0

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load, if there is room."""
        if Sparse._loaded == 3:
            raise LoadFailed("there are three already")
        Sparse._loaded += 1
        self._is_in = True

    def unload(self) -> None:
        """Make room, if it was loaded."""
        Sparse._loaded -= getattr(self, "_is_in", False)
        self._is_in = False
