"""Which file holds which kind of step; loaded when first needed."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from salver.core.errors import InvalidSteps
from salver.core.steps import nearest, strict
from salver.runtimes.base import Batch
from salver.runtimes.steps.base import Apply, Bound, Given, Specs, Step

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


def bind(documents: Sequence[dict[str, Any]], specs: Specs, folder: Path, side: str) -> Bound:
    """Return steps one after the other as one; raises ``InvalidSteps`` with the step's number."""
    calls: list[Apply] = []
    present = dict(specs)
    for number, document in enumerate(documents, start=1):
        where = f"{side} step {number}"
        step = _step(document, where)
        try:
            bound = step.bind(Given(present, folder))
        except InvalidSteps as error:
            raise InvalidSteps(f"{where} ({document[_KIND]}): {error.message}") from error
        calls.append(bound.apply)
        present = bound.specs
    return Bound(present, lambda batch: _applied(calls, batch))


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
