"""The class and the score that an answer says, as far as its outputs tell.

Of a request with several rows the first one counts, since a request is one piece of evidence.
"""

import numpy as np

from salver.core.datatypes import BYTES, DTYPES
from salver.core.errors import SalverError
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Tensor
from salver.rollout.tally import Layout, Tally

_CLASS_DATATYPES = frozenset((BYTES, "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8"))
_MAX_DIMENSIONS = 2


class Predictions:
    """Reads the answers of one variant.

    The class is the first output of whole numbers, texts or truth values with one value a row;
    without one, the place of the highest value in the first output of real numbers. The score is
    the last value of that output: of two classes the second, of a regression the value itself.
    """

    def __init__(self, signature: Signature, layout: Layout) -> None:
        self._places = {label: place for place, label in enumerate(layout.labels)}
        self._label = next((o.name for o in signature.outputs if _is_class(o)), "")
        self._score = next((o.name for o in signature.outputs if _is_score(o)), "")
        self._wants_score = bool(layout.score_edges)
        self._wants_mean = bool(layout.score_mean)

    def count(self, outputs: list[Tensor], tally: Tally, segment: int) -> None:
        """Count what an answer says; what cannot be read counts as another class, or not at all."""
        by_name = {tensor.name: tensor for tensor in outputs}
        scores = _first_row(by_name.get(self._score))
        if self._places:
            label = label_of(by_name.get(self._label), scores)
            tally.predicted(segment, self._places.get(label, -1))
        if scores is None or not scores.size:
            return
        if self._wants_score:
            tally.scored(segment, float(scores[-1]))
        if self._wants_mean:
            tally.averaged(segment, float(scores[-1]))


def label_of(tensor: Tensor | None, scores: np.ndarray | None) -> str:
    """Return a class as text, empty for none."""
    values = _first_row(tensor)
    if values is not None and values.size:
        value = values[0]
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value.item())
    if scores is not None and scores.size > 1 and not np.isnan(scores).all():
        return str(int(np.nanargmax(scores)))
    return ""


def _first_row(tensor: Tensor | None) -> np.ndarray | None:
    if tensor is None:
        return None
    try:
        array = tensor.array()
    except SalverError:
        return None
    return array.reshape(array.shape[0], -1)[0] if array.ndim and array.shape[0] else None


def _is_class(spec: TensorSpec) -> bool:
    one_a_row = len(spec.shape) == 1 or spec.shape[1:] == (1,)
    return spec.datatype in _CLASS_DATATYPES and one_a_row


def _is_score(spec: TensorSpec) -> bool:
    dtype = DTYPES.get(spec.datatype)
    is_real = dtype is not None and np.issubdtype(dtype, np.floating)
    return is_real and 1 <= len(spec.shape) <= _MAX_DIMENSIONS
