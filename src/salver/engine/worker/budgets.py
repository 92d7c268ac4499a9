"""The budgets of one worker, for its memory and for that of GPUs, asked as if they were one."""

from collections.abc import Callable
from typing import NamedTuple

from salver.core.hosting import CPU
from salver.core.steps import unstepped
from salver.engine.worker.residency import UNBOUNDED_BYTES, Decision, Idle, Residency, Verdict
from salver.observe.gpu import gpu_used_bytes
from salver.observe.memory import resident_bytes
from salver.runtimes.table import ON_GPUS
from salver.wire.messages import Load


class Usage(NamedTuple):
    """What a model took when it was loaded: in memory, for a moment (0: unknown), and of GPUs."""

    size_bytes: int
    peak_bytes: int = 0
    gpu_bytes: int = 0


class Budgets:
    """Says who may come in and who leaves, so that both ``memory`` and ``gpu`` suffice.

    Only models that take some of a GPU count there, and only those leave for want of it. How much
    a model takes of one is known once it was loaded; before, the size of its files is the guess.
    Without ``gpus`` on this machine none does. ``used`` and ``gpu_used`` tell what the process
    occupies now.
    """

    def __init__(
        self,
        memory: Residency,
        gpu: Residency,
        gpus: int,
        used: Callable[[], int] = resident_bytes,
        gpu_used: Callable[[], int] = gpu_used_bytes,
    ) -> None:
        self.memory = memory
        self.gpu = gpu
        self.gpus = gpus
        self.used = used
        self.gpu_used = gpu_used

    def know(self, load: Load) -> None:
        """Add a model with a guess of its sizes, or change whether it is pinned."""
        files_bytes = sum([file.size_bytes for file in load.files])
        self.memory.know(load.variant, load.size_hint_bytes or files_bytes, pinned=load.pinned)
        if self.gpu.has(load.variant) or self.may_use_gpu(load):
            self.gpu.know(load.variant, files_bytes, pinned=load.pinned)

    def may_use_gpu(self, load: Load) -> bool:
        """Tell whether a model may take some of a GPU whose memory has a budget."""
        has_choice = unstepped(load.runtime) in ON_GPUS
        has_some = self.gpus > 0 and self.gpu.is_bounded
        return has_some and has_choice and load.execution.provider != CPU

    def forget(self, variant: str) -> None:
        """Remove a model, wherever it is."""
        self.memory.forget(variant)
        self.gpu.forget(variant)

    def came(self, variant: str, usage: Usage) -> None:
        """Take note that a model is in, and of what it took."""
        self.memory.came(variant, usage.size_bytes, usage.peak_bytes)
        if usage.gpu_bytes and self.gpu.is_bounded:
            # It may have been on the CPU last time.
            self.gpu.know(variant, usage.gpu_bytes, pinned=self.memory.is_pinned(variant))
            self.gpu.came(variant, usage.gpu_bytes)
        else:
            self.gpu.forget(variant)

    def left(self, variant: str) -> None:
        """Take note that a model is out."""
        self.memory.left(variant)
        self.gpu.left(variant)

    def short_of(self, variant: str) -> Residency | None:
        """Return the budget that can never hold a model beside what is pinned, None if all can."""
        for budget in self._concerned(variant):
            if not budget.fits(variant):
                return budget
        return None

    def decide(self, variant: str, idle: Idle) -> Decision:
        """Say whether a model that is out may come in now, and who leaves for it."""
        decisions = [self.memory.decide(variant, self.used(), idle)]
        if self.gpu.has(variant):
            decisions.append(self.gpu.decide(variant, self.gpu_used(), idle))
        verdicts = {decision.verdict for decision in decisions}
        for verdict in (Verdict.NEVER, Verdict.WAIT):
            if verdict in verdicts:
                return Decision(verdict)
        leaving = {name: None for decision in decisions for name in decision.victims}
        return Decision(Verdict.LOAD, tuple(leaving))

    def surplus(self, idle: Idle, besides: str = "") -> tuple[str, ...]:
        """Return the models that should leave because the process has grown over a budget."""
        leaving = self.memory.surplus(self.used(), idle, besides)
        if self.gpu.models_in:
            leaving += self.gpu.surplus(self.gpu_used(), idle, besides)
        return tuple(dict.fromkeys(leaving))

    def everybody(self, idle: Idle) -> tuple[str, ...]:
        """Return all models that may leave."""
        return self.memory.surplus(2 * UNBOUNDED_BYTES, idle)

    def _concerned(self, variant: str) -> list[Residency]:
        return [self.memory, self.gpu] if self.gpu.has(variant) else [self.memory]
