"""Steps around a model, as they are written down: before it, and after it."""

import difflib
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from salver.core.errors import InvalidSteps
from salver.core.signature import TensorSpec

_MAX_STEPS = 64
_STEPPED = "stepped:"
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")

Made = TypeVar("Made")


class Steps(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is done with a request's tensors before the model, and with its answer after it.

    Each step is an object whose ``step`` names its kind. ``inputs`` declares what callers send,
    where no example shall tell it.
    """

    inputs: tuple[TensorSpec, ...] = ()
    before: tuple[dict[str, Any], ...] = ()
    after: tuple[dict[str, Any], ...] = ()


def read_steps(document: Any) -> Steps:
    """Return steps from plain values; raises ``InvalidSteps`` naming what is wrong."""
    check_whole_numbers(document)
    steps = strict(document, Steps, "the steps")
    if not steps.before and not steps.after:
        raise InvalidSteps("the steps hold neither 'before' nor 'after'")
    for side in (steps.before, steps.after):
        if len(side) > _MAX_STEPS:
            raise InvalidSteps(f"{len(side)} steps on one side of the model are over {_MAX_STEPS}")
    return steps


def stepped(runtime: str) -> str:
    """Return the runtime's name for a worker, which a worker that knows no steps refuses."""
    return _STEPPED + runtime


def unstepped(runtime: str) -> str:
    """Return the runtime's own name."""
    return runtime.removeprefix(_STEPPED)


def check_whole_numbers(document: Any) -> None:
    """Raise ``InvalidSteps`` for a whole number that no message carries."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise InvalidSteps("the steps hold a whole number beyond 64 bits")


def strict(document: Any, kind: type[Made], where: str) -> Made:
    """Return plain values as a struct.

    Raises ``InvalidSteps`` for a wrong or unknown field, with the nearest name that there is;
    ``where`` begins the message.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN_FIELD.search(str(error))
        if unknown is None:
            raise InvalidSteps(f"{where}: {error}") from error
        known = sorted(set(_fields(inspect.type_info(kind))))
        raise InvalidSteps(f"{where} has no {nearest(unknown[1], known)}") from error


def nearest(name: str, known: list[str]) -> str:
    """Return a name that is unknown, and which one may have been meant."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known[:20])}"
    return f"{name[:80]!r}; {hint}"


def _fields(info: inspect.Type) -> Iterator[str]:
    """Yield the names of a struct's fields, and of those inside them."""
    if isinstance(info, inspect.StructType):
        for field in info.fields:
            yield field.encode_name
            yield from _fields(field.type)
    elif isinstance(info, inspect.DictType):
        yield from _fields(info.value_type)
    elif isinstance(info, inspect.VarTupleType):
        yield from _fields(info.item_type)
    elif isinstance(info, inspect.UnionType):
        for part in info.types:
            yield from _fields(part)
