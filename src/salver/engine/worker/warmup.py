"""Runs golden examples when a version is loaded, before anybody's request meets it.

The first run of a model costs more than all later ones, and may fail where loading did not.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from salver.artifact.golden import MAX_GOLDEN_BYTES, Golden, compare, parse_golden
from salver.core.clock import Clock
from salver.core.errors import DigestMismatch, GoldenMismatch, InvalidSettings, LoadFailed
from salver.core.settings import EngineSettings
from salver.engine.materialize import blob_path
from salver.engine.worker.padding import Padder
from salver.runtimes.base import Batch, BatchRuntime
from salver.wire.messages import Load

WarmUp = Callable[[BatchRuntime, Load, Path], None]

_RUN, _CHECK, _OFF = "run", "check", "off"
_MAX_CAUSE = 500


def keep_cold(runtime: BatchRuntime, load: Load, blobs: Path) -> None:
    """Run nothing."""
    del runtime, load, blobs


def warm_up(settings: EngineSettings, clock: Clock) -> WarmUp:
    """Return what the settings ask for; raises ``InvalidSettings`` for a mode that is none."""
    if settings.warm_up not in (_RUN, _CHECK, _OFF):
        raise InvalidSettings(f"engine.warm_up is {_RUN}, {_CHECK} or {_OFF}")
    if settings.warm_up == _OFF:
        return keep_cold

    def run(runtime: BatchRuntime, load: Load, blobs: Path) -> None:
        """Run the examples of a version until the time for it is over, and one at least.

        Raises ``LoadFailed``, ``DigestMismatch``, and ``GoldenMismatch`` where answers are checked.
        """
        if not load.golden:
            return
        end_ns = clock.monotonic_ns() + round(settings.warm_up_s * 1e9)
        for number, example in enumerate(parse_golden(_read(load.golden, blobs)), start=1):
            inputs = _inputs(example, load)
            try:
                outputs = runtime.run(inputs, None)
            except Exception as error:  # a model may raise anything
                cause = f"{type(error).__name__}: {error}"[:_MAX_CAUSE]
                raise LoadFailed(
                    f"{load.variant} fails at its golden example {number}: {cause}; push it again, "
                    "or deploy it with --no-warm-up"
                ) from error
            if settings.warm_up == _CHECK:
                _check(load.variant, number, example, outputs)
            if clock.monotonic_ns() > end_ns:
                return

    return run


def _inputs(example: Golden, load: Load) -> Batch:
    inputs = {tensor.name: tensor.array() for tensor in example.inputs}
    sequences = load.policy.sequences
    return inputs if sequences is None else Padder(sequences, load.signature).completed(inputs)


def _check(variant: str, number: int, example: Golden, outputs: Batch) -> None:
    try:
        compare(example.outputs, outputs, example.rtol, example.atol)
    except GoldenMismatch as error:
        raise GoldenMismatch(f"{variant}, golden example {number}: {error.message}") from error


def _read(digest: str, blobs: Path) -> bytes:
    """Return a stored golden file; raises ``DigestMismatch`` when it is not what was pushed."""
    try:
        with blob_path(blobs, digest).open("rb") as file:
            data = file.read(MAX_GOLDEN_BYTES + 1)
    except OSError as error:
        raise DigestMismatch(
            f"the stored golden examples cannot be read ({error.strerror}); push the model again"
        ) from error
    if len(data) > MAX_GOLDEN_BYTES or sha256(data).hexdigest() != digest:
        raise DigestMismatch(
            f"the stored golden examples are not those that were pushed; restore blob {digest} "
            "from a backup, or push the model again"
        )
    return data
