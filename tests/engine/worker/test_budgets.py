"""Two budgets at once, for memory and for that of GPUs, against a simulated process."""

from hypothesis import given
from hypothesis import strategies as st

from salver.core.hosting import AUTO, CPU, Execution
from salver.core.signature import Signature
from salver.engine.worker.budgets import Budgets, Usage
from salver.engine.worker.residency import UNBOUNDED_BYTES, Residency, Verdict
from salver.wire.messages import FileRef, Load

BASE, CONTEXT = 100, 50


class Process:
    """What a process occupies, and models that take what they take."""

    def __init__(self, memory: int, gpu: int, *, gpus: int = 1, tells: bool = True) -> None:
        self.loaded: dict[str, Usage] = {}
        self.tells = tells
        self.budgets = Budgets(
            Residency(memory, BASE), Residency(gpu, CONTEXT), gpus, self.used, self.gpu_used
        )

    def used(self) -> int:
        """Return the memory."""
        return BASE + sum(one.size_bytes for one in self.loaded.values())

    def gpu_used(self) -> int:
        """Return that of the GPU."""
        return CONTEXT + sum(one.gpu_bytes for one in self.loaded.values()) if self.tells else 0

    def idle(self) -> dict[str, int]:
        """Return all models, in the order in which they came."""
        return {name: place for place, name in enumerate(self.loaded)}

    def host(self, name: str, provider: str = AUTO, *, pinned: bool = False, size: int = 1) -> None:
        """Have a model known whose file is so large."""
        file = FileRef("model.onnx", "0" * 64, size)
        execution = Execution(provider=provider)
        empty = Signature((), ())
        self.budgets.know(
            Load(name, "d", "onnx", (file,), "local", empty, pinned=pinned, execution=execution)
        )

    def come(self, name: str, usage: Usage) -> Verdict:
        """Load a model if that may be, after those that have to leave."""
        verdict, victims = self.budgets.decide(name, self.idle())
        if verdict is Verdict.LOAD:
            for victim in victims:
                self.leave(victim)
            self.loaded[name] = usage
            self.budgets.came(name, usage)
            for victim in self.budgets.surplus(self.idle(), name):
                self.leave(victim)
        return verdict

    def leave(self, name: str) -> None:
        """Send a model away."""
        del self.loaded[name]
        self.budgets.left(name)


def test_a_gpu_that_is_full_sends_away_what_uses_it() -> None:
    """Only models on the GPU leave for its sake, the one used longest ago first."""
    process = Process(UNBOUNDED_BYTES, CONTEXT + 100)
    for name in ("cpu", "old", "young", "new"):
        process.host(name)
    assert process.come("cpu", Usage(30)) is Verdict.LOAD
    for name in ("old", "young", "new"):
        assert process.come(name, Usage(5, 0, 50)) is Verdict.LOAD
    assert set(process.loaded) == {"cpu", "young", "new"}


def test_memory_that_is_full_sends_away_what_uses_the_gpu_too() -> None:
    """Both budgets hold at once; what leaves frees both."""
    process = Process(BASE + 100, CONTEXT + 1000)
    for name in ("a", "b", "c"):
        process.host(name, size=40)
        assert process.come(name, Usage(40, 0, 10)) is Verdict.LOAD
    assert set(process.loaded) == {"b", "c"}
    assert process.gpu_used() == CONTEXT + 20


def test_a_model_that_is_too_large_for_the_gpu_is_told_so() -> None:
    """The budget that is short is named, and a model on the CPU is not concerned by a GPU's."""
    process = Process(UNBOUNDED_BYTES, CONTEXT + 100)
    process.host("pinned", pinned=True)
    process.host("large", size=90)
    process.host("cpu", CPU, size=500)
    assert process.come("pinned", Usage(1, 0, 20)) is Verdict.LOAD
    assert process.come("large", Usage(1, 0, 90)) is Verdict.NEVER
    assert process.budgets.short_of("large") is process.budgets.gpu
    assert process.come("cpu", Usage(500)) is Verdict.LOAD
    assert process.budgets.short_of("cpu") is None


def test_where_the_driver_tells_nothing_nobody_leaves() -> None:
    """What is not known bounds nothing."""
    process = Process(UNBOUNDED_BYTES, CONTEXT + 100, tells=False)
    for index in range(9):
        process.host(f"m{index}")
        assert process.come(f"m{index}", Usage(5)) is Verdict.LOAD
    assert len(process.loaded) == 9


def test_without_a_gpu_its_budget_bounds_nothing() -> None:
    """What would be too large for the budget runs on the CPU."""
    process = Process(UNBOUNDED_BYTES, CONTEXT + 100, gpus=0)
    process.host("large", size=500)
    assert process.come("large", Usage(500)) is Verdict.LOAD


def test_without_a_budget_of_gpu_memory_it_is_not_looked_at() -> None:
    """Models are not expected on a GPU, and what they take of it counts for nothing."""
    process = Process(BASE + 100, UNBOUNDED_BYTES)
    process.host("a", size=10)
    assert not process.budgets.gpu.has("a")
    assert process.come("a", Usage(10, 0, 1 << 40)) is Verdict.LOAD
    process.host("b", size=10)
    assert process.come("b", Usage(10, 0, 1 << 40)) is Verdict.LOAD
    assert set(process.loaded) == {"a", "b"}


def test_all_that_may_leave_does_without_a_budget_of_memory_too() -> None:
    """Where the machine runs out of memory idle models leave, whichever budget there is."""
    process = Process(UNBOUNDED_BYTES, CONTEXT + 100)
    for name in ("cpu", "gpu", "pinned"):
        process.host(name, pinned=name == "pinned")
    process.come("cpu", Usage(5))
    process.come("gpu", Usage(5, 0, 10))
    process.come("pinned", Usage(5))
    assert process.budgets.everybody(process.idle()) == ("cpu", "gpu")


def test_what_comes_to_a_gpu_later_counts_there() -> None:
    """A model that had to go to the CPU once takes room on the GPU when it comes back there."""
    process = Process(UNBOUNDED_BYTES, CONTEXT + 100)
    process.host("moved")
    process.come("moved", Usage(5))
    process.leave("moved")
    process.come("moved", Usage(5, 0, 80))
    process.host("new")
    process.come("new", Usage(5, 0, 80))
    assert set(process.loaded) == {"new"}
    assert process.gpu_used() <= CONTEXT + 100


MODELS = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=6)


@given(
    models=MODELS,
    asked=st.lists(st.integers(0, 5), max_size=40),
    memory=st.integers(1, 120),
    gpu=st.integers(1, 120),
)
def test_neither_budget_is_exceeded(
    models: list[tuple[int, int]], asked: list[int], memory: int, gpu: int
) -> None:
    """Whatever is asked for in whatever order; what fits alone comes in when it is asked for."""
    process = Process(BASE + memory, CONTEXT + gpu)
    for index in range(len(models)):
        process.host(f"m{index}")
    for wish in asked:
        index = wish % len(models)
        name, (size, on_gpu) = f"m{index}", models[index]
        if name in process.loaded:
            continue
        verdict = process.come(name, Usage(size, 0, on_gpu))
        fits = size <= memory and on_gpu <= gpu
        assert verdict is Verdict.LOAD or not fits
        if verdict is Verdict.LOAD and not fits:
            # Only now is it known how large it is; the host of a version sends it away.
            assert process.budgets.short_of(name) is not None
            process.leave(name)
        assert process.used() <= BASE + memory
        assert process.gpu_used() <= CONTEXT + gpu
