"""Which file holds which kind of step; loaded when first needed."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from salver.core.errors import InvalidSteps
from salver.core.sequences import Sequences
from salver.core.steps import nearest, strict
from salver.runtimes.base import Batch, RuntimeOptions
from salver.runtimes.steps.base import (
    Apply,
    Bound,
    Given,
    Specs,
    Step,
    check_size,
    row_bytes,
)

KINDS: dict[str, str] = {
    "select": "salver.runtimes.steps.select:Select",
    "cast": "salver.runtimes.steps.cast:Cast",
    "fill": "salver.runtimes.steps.fill:Fill",
    "scale": "salver.runtimes.steps.scale:Scale",
    "one_hot": "salver.runtimes.steps.one_hot:OneHot",
    "tokenize": "salver.runtimes.steps.tokenize:Tokenize",
    "softmax": "salver.runtimes.steps.softmax:Softmax",
    "threshold": "salver.runtimes.steps.threshold:Threshold",
    "labels": "salver.runtimes.steps.labels:Labels",
    "top_k": "salver.runtimes.steps.top_k:TopK",
}
_KIND = "step"


def bind(
    documents: Sequence[dict[str, Any]],
    specs: Specs,
    folder: Path,
    side: str,
    limit_bytes: int = RuntimeOptions().step_bytes,
) -> Bound:
    """Return steps one after the other as one; raises ``InvalidSteps`` with the step's number.

    What they make of a batch takes ``limit_bytes`` at most, or is the caller's error. Results are
    of unlike lengths where the last step says so: what another makes of such is not known.
    """
    calls: list[Apply] = []
    present = dict(specs)
    sequences: Sequences | None = None
    for number, document in enumerate(documents, start=1):
        where = f"{side} step {number}"
        step = _step(document, where)
        try:
            bound = step.bind(Given(present, folder, limit_bytes))
        except InvalidSteps as error:
            raise InvalidSteps(f"{where} ({document[_KIND]}): {error.message}") from error
        made_bytes = row_bytes(bound.specs)
        if made_bytes > row_bytes(present):
            calls.append(_guard(made_bytes, limit_bytes))
        calls.append(bound.apply)
        present, sequences = bound.specs, bound.sequences
    return Bound(present, lambda batch: _applied(calls, batch), sequences)


def _guard(made_bytes: int, limit_bytes: int) -> Apply:
    """Return what refuses batches of more rows than a step may make so much of."""

    def check(batch: Batch) -> Batch:
        check_size(made_bytes * max(map(len, batch.values()), default=0), limit_bytes)
        return batch

    return check


def _applied(calls: list[Apply], batch: Batch) -> Batch:
    for call in calls:
        batch = call(batch)
    return batch


def _step(document: dict[str, Any], where: str) -> Step:
    kind = document.get(_KIND)
    if not isinstance(kind, str):
        raise InvalidSteps(f"{where} names no kind; 'step' is one of {', '.join(KINDS)}")
    target = KINDS.get(kind)
    if target is None:
        raise InvalidSteps(f"{where}: there is no step {nearest(kind, list(KINDS))}")
    module, _, attribute = target.partition(":")
    parameters = {key: value for key, value in document.items() if key != _KIND}
    step: Step = strict(parameters, getattr(import_module(module), attribute), f"{where} ({kind})")
    return step
