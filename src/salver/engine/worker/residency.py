"""Which models stay in memory when not all of them fit; decides, and touches nothing.

Two things are known: what each model took when it was loaded, and what the process occupies now.
What it occupies besides its models (``base_bytes`` before the first of them came, later also the
buffers of runs and what the heap keeps) leaves less room for them.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

import msgspec


class Verdict(Enum):
    """What becomes of a wish to load: now, when somebody is done, or never."""

    LOAD = "load"
    WAIT = "wait"
    NEVER = "never"


class Decision(NamedTuple):
    """A verdict, and with LOAD the models that leave first, the one used longest ago in front."""

    verdict: Verdict
    victims: tuple[str, ...] = ()


class _Model(msgspec.Struct):
    size_bytes: int
    pinned: bool
    is_in: bool = False


Idle = Mapping[str, int]


class Residency:
    """The models of one process, and its budget.

    ``idle`` maps the models that could leave now, since nothing waits or runs for them, to when
    they were last used (any clock that only goes forwards). Others are never sent away, nor are
    pinned ones.
    """

    def __init__(self, budget_bytes: int, base_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.base_bytes = base_bytes
        self._models: dict[str, _Model] = {}

    @property
    def models_bytes(self) -> int:
        """What the models in memory took together."""
        return sum([model.size_bytes for model in self._models.values() if model.is_in])

    @property
    def models_in(self) -> int:
        """How many models are in memory."""
        return sum([model.is_in for model in self._models.values()])

    def know(self, variant: str, size_bytes: int, *, pinned: bool) -> None:
        """Add a model with a guess of its size, or change whether it is pinned."""
        model = self._models.get(variant)
        if model is None:
            self._models[variant] = _Model(max(1, size_bytes), pinned)
        else:
            model.pinned = pinned

    def forget(self, variant: str) -> None:
        """Remove a model, wherever it is."""
        self._models.pop(variant, None)

    def came(self, variant: str, size_bytes: int) -> None:
        """Take note that a model is in memory, and what it took."""
        model = self._models.get(variant)
        if model is not None:
            model.size_bytes, model.is_in = max(1, size_bytes), True

    def left(self, variant: str) -> None:
        """Take note that a model is out of memory."""
        model = self._models.get(variant)
        if model is not None:
            model.is_in = False

    def fits(self, variant: str) -> bool:
        """Tell whether there is room for a model when all that may leave has left."""
        others = [m for name, m in self._models.items() if m.pinned and name != variant]
        reserved = sum([model.size_bytes for model in others])
        needed = self._models[variant].size_bytes
        return self.base_bytes + reserved + needed <= self.budget_bytes

    def decide(self, variant: str, resident_bytes: int, idle: Idle) -> Decision:
        """Say whether a model that is out may come in now, and who leaves for it.

        When nothing more can leave and there still is too little room, because the process
        occupies more than its models explain, the model comes in all the same: a worker that is
        worn should answer until it is replaced.
        """
        if not self.fits(variant):
            return Decision(Verdict.NEVER)
        excess = resident_bytes + self._models[variant].size_bytes - self.budget_bytes
        victims, missing = self._victims(excess, idle, variant)
        if missing > 0 and self._busy(idle, variant):
            return Decision(Verdict.WAIT)
        return Decision(Verdict.LOAD, victims)

    def surplus(self, resident_bytes: int, idle: Idle, besides: str = "") -> tuple[str, ...]:
        """Return the models that should leave because the process has grown over the budget."""
        return self._victims(resident_bytes - self.budget_bytes, idle, besides)[0]

    def unexplained_bytes(self, resident_bytes: int) -> int:
        """Return what the process occupies that neither its models nor its start explain."""
        return resident_bytes - self.base_bytes - self.models_bytes

    def _victims(self, excess: int, idle: Idle, besides: str) -> tuple[tuple[str, ...], int]:
        """Return who leaves to get rid of an excess, and what remains of it."""
        victims: list[str] = []
        for name in sorted(idle, key=idle.__getitem__):
            if excess <= 0:
                break
            model = self._models.get(name)
            if model is not None and model.is_in and not model.pinned and name != besides:
                victims.append(name)
                excess -= model.size_bytes
        return tuple(victims), excess

    def _busy(self, idle: Idle, besides: str) -> bool:
        """Tell whether a model is in memory that could leave later."""
        return any(
            model.is_in and not model.pinned and name not in idle and name != besides
            for name, model in self._models.items()
        )
