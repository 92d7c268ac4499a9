"""What code returned, held against what it must return."""

from typing import Any

import numpy as np

from salver.core.datatypes import BYTES, datatype_of
from salver.core.errors import InvalidTensor, ModelFailed
from salver.core.signature import TensorSpec
from salver.core.tensor import AnyArray
from salver.runtimes.base import Batch


def checked(value: Any, method: str, declared: tuple[TensorSpec, ...]) -> Batch:
    """Return copies of what a method answered, if it is a dict of names to numpy arrays.

    They are copies since an answer may wait for a slow receiver, and code may write its next answer
    into the same array meanwhile.
    ``declared`` is empty while nobody knows the outputs. Raises ``ModelFailed`` saying what came
    instead.
    """
    if not isinstance(value, dict):
        raise ModelFailed(
            f"{method} returned {_kind(value)}; it must return a dict of output names to numpy "
            "arrays"
        )
    if not value:
        raise ModelFailed(f"{method} returned an empty dict; a model has at least one output")
    for name, array in value.items():
        if not isinstance(name, str):
            raise ModelFailed(f"{method} named an output {name!r}, which is {_kind(name)}, no text")
        _check_array(name, array, method)
    for spec in declared:
        _check_declared(spec, value.get(spec.name), method)
    return {name: np.array(array) for name, array in value.items()}


def _check_array(name: str, array: Any, method: str) -> None:
    if not isinstance(array, np.ndarray):
        raise ModelFailed(
            f"{method} returned {_kind(array)} for output {name!r}; it must be a numpy array, as "
            "numpy.asarray makes one"
        )
    try:
        datatype_of(array.dtype)
    except InvalidTensor as error:
        raise ModelFailed(f"{method}, output {name!r}: {error.message}") from error
    if array.dtype == object:
        strange = [item for item in array.ravel().tolist() if not isinstance(item, bytes | str)]
        if strange:
            raise ModelFailed(
                f"{method} returned {_kind(strange[0])} inside output {name!r}; an object array "
                "holds bytes or str"
            )


def _check_declared(spec: TensorSpec, array: AnyArray | None, method: str) -> None:
    if array is None:
        raise ModelFailed(f"{method} returned no output {spec.name!r}, which this version declares")
    datatype = datatype_of(array.dtype)
    if datatype != spec.datatype:
        hint = "" if BYTES in (datatype, spec.datatype) else "; cast it with .astype"
        raise ModelFailed(
            f"{method} returned {datatype} for output {spec.name!r}, this version declares "
            f"{spec.datatype}{hint}"
        )


def _kind(value: Any) -> str:
    """Name a value's type as its author would."""
    if value is None:
        return "None"
    kind = type(value)
    module = kind.__module__.split(".")[0]
    name = kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"
    if name == "generator":
        return "a generator (predict_stream is the method that yields)"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
