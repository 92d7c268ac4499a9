"""Any runtime with steps before and after it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from salver.core.datatypes import datatype_of
from salver.core.errors import InvalidSteps, ModelFailed
from salver.core.sequences import Sequences
from salver.core.signature import VARIABLE, Signature, TensorSpec
from salver.core.steps import Steps
from salver.runtimes.base import (
    Batch,
    BatchRuntime,
    Runtime,
    RuntimeOptions,
    Sink,
    StreamRuntime,
    most_rows_of,
    provider_of,
)
from salver.runtimes.checks import check_batch, pick
from salver.runtimes.steps.base import Apply, Specs
from salver.runtimes.steps.table import bind

_Shapes = tuple[tuple[str, str, tuple[int, ...]], ...]


class Around:
    """The steps of one version, fitted to its inputs and to what its model answers."""

    def __init__(self, steps: Steps) -> None:
        self.signature: Signature | None = None
        self._steps = steps
        self._folder = Path()
        self._limit_bytes = RuntimeOptions().step_bytes
        self._before: Apply = _unchanged
        self.made: tuple[Signature, Sequences] | None = None
        self._after: tuple[_Shapes, Apply] | None = None

    def load(
        self, inner: Runtime, folder: Path, signature: Signature | None, options: RuntimeOptions
    ) -> None:
        """Load the model and fit the steps before it.

        ``signature`` is what callers see; None where it is what the model itself says. Raises
        ``InvalidSteps`` when the steps do not give what the model takes, and what loading raises.
        """
        steps = self._steps
        self._folder = folder
        self._limit_bytes = options.step_bytes
        inner.load(folder, None, options)
        own = inner.signature()
        if signature is None:
            if steps.inputs:
                signature = Signature(steps.inputs, ())
            elif own is not None and not steps.before:
                signature = Signature(own.inputs, ())
        self.signature = signature
        if steps.before:
            if signature is None:
                raise InvalidSteps("nothing tells the inputs of the steps; give an example")
            specs = {spec.name: spec for spec in signature.inputs}
            bound = bind(steps.before, specs, folder, "before", self._limit_bytes)
            if own is not None:
                _check_fit(bound.specs, own)
            self._before = bound.apply
            if bound.sequences is not None:
                self.made = (Signature(tuple(bound.specs.values()), ()), bound.sequences)

    def before(self, batch: Batch) -> Batch:
        """Return what the model takes; raises a ``CallerError`` for what callers got wrong."""
        if self.signature is not None:
            check_batch(batch, self.signature.inputs)
        return self._before(batch)

    def after(self, outputs: Batch) -> Batch:
        """Return what callers get; may be called from several threads."""
        if not self._steps.after:
            return outputs
        outputs = {name: np.asarray(value) for name, value in outputs.items()}
        shapes = tuple(
            (name, datatype_of(array.dtype), array.shape[1:]) for name, array in outputs.items()
        )
        # Read and set as one: the streams of a model share this.
        fitted = self._after
        if fitted is None or fitted[0] != shapes:
            specs = {
                name: TensorSpec(name, datatype, (VARIABLE, *shape))
                for name, datatype, shape in shapes
            }
            bound = bind(self._steps.after, specs, self._folder, "after", self._limit_bytes)
            fitted = self._after = (shapes, bound.apply)
        return fitted[1](outputs)


class Rest:
    """The way of a batch whose requests have taken the steps before the model one by one.

    ``signature`` has the inputs that those steps make, ``sequences`` how they are filled up to one
    length. ``prepare`` takes them for one request and may be called in another thread than ``run``.
    """

    def __init__(
        self, inner: BatchRuntime, around: Around, made: tuple[Signature, Sequences]
    ) -> None:
        self.signature, self.sequences = made
        self.prepare = around.before
        self._inner = inner
        self._around = around

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer what steps have prepared, as ``SteppedRuntime.run`` would from the beginning."""
        return pick(self._around.after(self._inner.run(batch, None)), outputs)


class SteppedRuntime:
    """Batch runtime around another.

    Steps work on whole batches; with ``row_by_row`` every row takes the whole way alone, which is
    slow, and gives the same answers. Where the steps before the model end with texts of unlike
    lengths, ``rest`` is what is left for those who take them apart; None elsewhere.
    """

    def __init__(self, inner: BatchRuntime, steps: Steps, *, row_by_row: bool = False) -> None:
        self._inner = inner
        self._around = Around(steps)
        self._row_by_row = row_by_row
        self.rest: Rest | None = None

    @property
    def provider(self) -> str:
        """What the model computes with."""
        return provider_of(self._inner)

    @property
    def most_rows(self) -> int | None:
        """How many rows the model takes at once; steps keep their number."""
        return most_rows_of(self._inner)

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the model; see ``Around.load``."""
        self._around.load(self._inner, folder, signature, options)
        made = self._around.made
        if made is not None and not self._row_by_row:
            self.rest = Rest(self._inner, self._around, made)

    def signature(self) -> Signature | None:
        """Return what callers see, as far as it is known."""
        return self._around.signature

    def run(self, batch: Batch, outputs: tuple[str, ...] | None) -> Batch:
        """Answer a batch."""
        rows = len(next(iter(batch.values()))) if self._row_by_row and batch else 0
        if rows <= 1:
            return pick(self._answer(batch), outputs)
        alone = [
            self._answer({name: array[row : row + 1] for name, array in batch.items()})
            for row in range(rows)
        ]
        return pick({name: _joined(name, alone) for name in alone[0]}, outputs)

    def unload(self) -> None:
        """Release the model."""
        self._inner.unload()

    def _answer(self, batch: Batch) -> Batch:
        return self._around.after(self._inner.run(self._around.before(batch), None))


class SteppedStreamRuntime:
    """Stream runtime around another; the steps after it take each chunk by itself."""

    def __init__(self, inner: StreamRuntime, steps: Steps) -> None:
        self._inner = inner
        self._around = Around(steps)

    def load(self, folder: Path, signature: Signature | None, options: RuntimeOptions) -> None:
        """Load the model; see ``Around.load``."""
        self._around.load(self._inner, folder, signature, options)

    def signature(self) -> Signature | None:
        """Return what callers see, as far as it is known."""
        return self._around.signature

    def submit(self, inputs: Batch, sink: Sink) -> Callable[[], None]:
        """Begin one request."""
        return self._inner.submit(self._around.before(inputs), _AfterSink(sink, self._around))

    def unload(self) -> None:
        """Release the model."""
        self._inner.unload()


class _AfterSink:
    """Passes chunks on through the steps after the model."""

    def __init__(self, sink: Sink, around: Around) -> None:
        self.finish = sink.finish
        self.fail = sink.fail
        self._sink = sink
        self._around = around

    def chunk(self, outputs: Batch) -> bool:
        """Deliver one chunk; what a step raises ends the stream through the runtime."""
        return self._sink.chunk(self._around.after(outputs))


def _unchanged(batch: Batch) -> Batch:
    return batch


def _joined(name: str, alone: list[Batch]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    try:
        return np.concatenate([answer[name] for answer in alone])
    except ValueError as error:
        raise ModelFailed(f"output {name!r} differs in shape from row to row: {error}") from error


def _check_fit(specs: Specs, own: Signature) -> None:
    """Raise ``InvalidSteps`` unless the steps end with what the model takes."""
    wanted = {spec.name: spec for spec in own.inputs}
    for name in specs:
        if name not in wanted:
            raise InvalidSteps(
                f"the steps before end with {name!r}, which the model does not take; it takes "
                f"{', '.join(wanted)}. End with a select of these"
            )
    for name, spec in wanted.items():
        given = specs.get(name)
        if given is None:
            if not spec.optional:
                raise InvalidSteps(
                    f"the steps before do not give {name!r}, which the model takes; they give "
                    f"{', '.join(specs)}"
                )
        elif given.datatype != spec.datatype:
            raise InvalidSteps(
                f"the steps before give {name!r} as {given.datatype}, the model takes "
                f"{spec.datatype}; add a cast"
            )
        elif not _shapes_fit(given.shape, spec.shape):
            raise InvalidSteps(
                f"the steps before give {name!r} the shape {list(given.shape)}, the model takes "
                f"{list(spec.shape)}"
            )


def _shapes_fit(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(given) == len(wanted) and all(
        VARIABLE in (one, other) or one == other for one, other in zip(given, wanted, strict=True)
    )
