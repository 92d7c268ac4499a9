"""Which models stay in memory when not all of them fit; decides, and touches nothing.

Two things are known: what each model took when it was loaded, and what the process occupies now.
What it occupies besides its models (``base_bytes`` before the first of them came, later also the
buffers of runs and what the heap keeps) leaves less room for them.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

import msgspec

UNBOUNDED_BYTES = 1 << 62
"""The budget of what has none."""
MARGIN = 0.05
"""By which part of the budget a load may exceed it for a moment."""
_USUAL_PEAK = 3


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
    peak_bytes: int = 0


Idle = Mapping[str, int]


class Residency:
    """The models of one process, and its budget.

    ``idle`` maps the models that could leave now, since nothing waits or runs for them, to when
    they were last used (any clock that only goes forwards). Others are never sent away, nor are
    pinned ones. Reading a model takes ``usual_peak`` times its size for a moment, or what was seen.
    """

    def __init__(self, budget_bytes: int, base_bytes: int, usual_peak: int = _USUAL_PEAK) -> None:
        self.budget_bytes = budget_bytes
        self.base_bytes = base_bytes
        self._usual_peak = usual_peak
        self._models: dict[str, _Model] = {}

    @property
    def is_bounded(self) -> bool:
        """Tell whether there is a budget at all."""
        return self.budget_bytes < UNBOUNDED_BYTES

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

    def has(self, variant: str) -> bool:
        """Tell whether a model is known, in memory or out."""
        return variant in self._models

    def is_pinned(self, variant: str) -> bool:
        """Tell whether a model is known as one that never leaves."""
        model = self._models.get(variant)
        return model is not None and model.pinned

    def forget(self, variant: str) -> None:
        """Remove a model, wherever it is."""
        self._models.pop(variant, None)

    def came(self, variant: str, size_bytes: int, peak_bytes: int = 0) -> None:
        """Take note that a model is in memory, what it took, and what for a moment (0: unknown)."""
        model = self._models.get(variant)
        if model is not None:
            model.size_bytes, model.is_in = max(1, size_bytes), True
            model.peak_bytes = peak_bytes or model.peak_bytes

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

        What reading it takes for a moment may go over the budget by ``MARGIN``. More leave for that
        if it helps, but nobody waits for it. Where all models have room together none leaves for a
        moment's sake: it would be read again at once, for which the next one would have to leave.
        """
        if not self.fits(variant):
            return Decision(Verdict.NEVER)
        model = self._models[variant]
        excess = resident_bytes + model.size_bytes - self.budget_bytes
        victims, missing = self._victims(excess, idle, variant)
        if missing > 0 and self._busy(idle, variant):
            return Decision(Verdict.WAIT)
        beside_bytes = max(self.base_bytes, resident_bytes - self.models_bytes)
        all_bytes = beside_bytes + sum([one.size_bytes for one in self._models.values()])
        if all_bytes <= self.budget_bytes:
            return Decision(Verdict.LOAD, victims)
        most_bytes = self.budget_bytes + int(MARGIN * self.budget_bytes)
        # What was seen, which free memory may have hidden.
        loading_bytes = max(model.peak_bytes, self._usual_peak * model.size_bytes)
        more, missing = self._victims(resident_bytes + loading_bytes - most_bytes, idle, variant)
        return Decision(Verdict.LOAD, victims if missing > 0 else max(victims, more, key=len))

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
