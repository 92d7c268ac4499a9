"""Golden examples: what a model must answer, within a tolerance."""

from typing import Any, NamedTuple

import numpy as np
import orjson

from salver.core.errors import GoldenMismatch, InvalidExample
from salver.core.rows import body_to_tensors, tensors_to_body
from salver.core.tensor import AnyArray, Tensor

DEFAULT_RTOL = 1e-4
DEFAULT_ATOL = 1e-5
MAX_GOLDEN_BYTES = 64 * 1024 * 1024
"""Nobody who asks examples reads more."""
_MAX_EXAMPLES = 10_000


class Golden(NamedTuple):
    """One example: inputs, the outputs expected, relative and absolute tolerance."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    rtol: float = DEFAULT_RTOL
    atol: float = DEFAULT_ATOL


def parse_golden(data: bytes) -> list[Golden]:
    """Read JSON lines of ``{inputs, outputs, rtol, atol}``; raises ``InvalidExample``."""
    examples: list[Golden] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
            examples.append(_example(document))
        except (orjson.JSONDecodeError, TypeError, ValueError, KeyError) as error:
            raise InvalidExample(f"golden line {number}: {error}") from error
        except InvalidExample as error:
            raise InvalidExample(f"golden line {number}: {error.message}") from error
        if len(examples) > _MAX_EXAMPLES:
            raise InvalidExample(f"more than {_MAX_EXAMPLES} golden examples")
    if not examples:
        raise InvalidExample("the golden file has no lines")
    return examples


def _example(document: Any) -> Golden:
    if not isinstance(document, dict):
        raise InvalidExample("a line must be an object with inputs and outputs")
    return Golden(
        body_to_tensors(document, "inputs"),
        body_to_tensors(document, "outputs"),
        float(document.get("rtol", DEFAULT_RTOL)),
        float(document.get("atol", DEFAULT_ATOL)),
    )


def write_golden(examples: list[Golden]) -> bytes:
    """Return the JSON lines of examples; not a number is written as null."""
    return b"".join(
        orjson.dumps(
            {
                "inputs": tensors_to_body(example.inputs),
                "outputs": tensors_to_body(example.outputs),
                "rtol": example.rtol,
                "atol": example.atol,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for example in examples
    )


def compare(expected: list[Tensor], actual: dict[str, AnyArray], rtol: float, atol: float) -> None:
    """Raise ``GoldenMismatch`` naming the first output and place that differs."""
    for tensor in expected:
        array = actual.get(tensor.name)
        if array is None:
            raise GoldenMismatch(f"the model gives no output {tensor.name!r}")
        difference = first_difference(tensor.array(), array, rtol, atol)
        if difference:
            raise GoldenMismatch(f"output {tensor.name!r} {difference}")


def first_difference(expected: AnyArray, actual: AnyArray, rtol: float, atol: float) -> str:
    """Describe the first place where two arrays differ beyond the tolerance, or return ""."""
    if expected.shape != actual.shape:
        return f"has shape {list(actual.shape)}, expected was {list(expected.shape)}"
    if expected.dtype.kind in "fc" and actual.dtype.kind in "fciu":
        same = np.isclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True)
    else:
        same = np.array(_text(expected) == _text(actual))
    if bool(np.all(same)):
        return ""
    place = tuple(int(index) for index in np.argwhere(~np.atleast_1d(same))[0])
    got, wanted = (np.atleast_1d(array)[place] for array in (actual, expected))
    return (
        f"differs at {list(place)}: {getattr(got, 'item', lambda: got)()!r} instead of "
        f"{getattr(wanted, 'item', lambda: wanted)()!r} (rtol {rtol:g}, atol {atol:g})"
    )


def _text(array: AnyArray) -> AnyArray:
    """Make text comparable, whether it came as bytes or str."""
    if array.dtype.kind not in "OSU":
        return array
    flat = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    text = np.empty(len(flat), dtype=object)
    text[:] = flat
    return text.reshape(array.shape)
