"""How long the rows of a request are, and which requests of unlike lengths go together."""

from typing import NamedTuple

from salver.core.sequences import Sequences
from salver.core.signature import VARIABLE, Signature
from salver.engine.worker.form import ALONE, Form

_MAX_KNOWN = 1024


class Measure(NamedTuple):
    """What batching knows of a form: the key of its batches, and the tokens in each of its rows."""

    key: tuple[object, ...]
    length: int


class Tokens:
    """Measures the requests of one version.

    A row has as many tokens as its sequence axis is long. Where no sequences are declared that is
    the first axis after the batch that may vary, and requests of unlike lengths never share a key.
    """

    def __init__(self, signature: Signature, sequences: Sequences | None) -> None:
        self._sequences = sequences
        if sequences is not None:
            self._axes = {item.name: item.axis for item in sequences.inputs}
        else:
            self._axes = {
                spec.name: spec.shape.index(VARIABLE, 1)
                for spec in signature.inputs
                if VARIABLE in spec.shape[1:]
            }
        self._known: dict[Form, Measure] = {}

    def of(self, form: Form) -> Measure:
        """Return the measure of a form; its rows have one token where nothing varies."""
        known = self._known.get(form)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[form] = self._measured(form)
        return known

    def _measured(self, form: Form) -> Measure:
        lengths = [
            header.shape[axis]
            for header in form.inputs
            if (axis := self._axes.get(header.name, 0)) and axis < len(header.shape)
        ]
        if not lengths:
            return Measure(form.key, 1)
        length = max(1, lengths[0])
        if self._sequences is None or form.key is ALONE or set(lengths) != {length}:
            return Measure(form.key, max(1, *lengths))
        alike = [
            (header.name, header.datatype, _open(header.shape, self._axes.get(header.name, 0)))
            for header in form.inputs
        ]
        return Measure((*alike, form.outputs), length)


def _open(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape of a row with the axis that may differ left open."""
    return (*shape[1:axis], VARIABLE, *shape[axis + 1 :]) if axis else shape[1:]
