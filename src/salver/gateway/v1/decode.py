"""From a body of `instances` or `inputs` to tensors, as the signature has them.

These bodies say neither datatypes nor shapes: the nesting is the shape, the signature decides the
rest. What is a value of a datatype is the same as in the Open Inference Protocol's JSON.
"""

import base64
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

from salver.core.datatypes import BYTES
from salver.core.errors import InvalidRequest, InvalidTensor
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.settings import HttpSettings
from salver.core.signature import TensorSpec
from salver.core.tensor import Buffer, Tensor, encode_bytes
from salver.gateway.oip.body import check_dimensions, check_json, parameters_of, parse_object
from salver.gateway.oip.decode import Decoded, from_list
from salver.gateway.oip.metadata import variant_of
from salver.gateway.oip.reading import Target
from salver.gateway.triton.parameters import custom_parameters
from salver.gateway.v1.encode import encode_columns, encode_rows
from salver.gateway.v1.layout import BLOB, Part, from_inputs, from_instances
from salver.gateway.v1.status import SIGNATURE_NAME
from salver.wire.messages import EndpointPlan

_NUMBERS = frozenset((int, float))
_KINDS: dict[str, frozenset[type]] = {
    BYTES: frozenset((str, dict)),
    "BOOL": frozenset((bool,)),
    "FP16": _NUMBERS,
    "FP32": _NUMBERS,
    "FP64": _NUMBERS,
}
_WHOLE_NUMBERS = frozenset((int,))


def decode_v1(
    body: Buffer, target: Target, endpoint: EndpointPlan, settings: HttpSettings
) -> Decoded:
    """Read a body; its answer is written in rows or columns as the body was.

    Raises ``InvalidJson``, ``InvalidRequest``, ``InvalidTensor``, ``MissingInput``,
    ``UnknownInput``, ``BodyTooLarge``, ``VersionNotFound`` or ``NotReady``.
    """
    signature = variant_of(endpoint, target.version).signature
    check_json(body, settings)
    document = parse_object(body)
    parameters = parameters_of(document)
    _check_signature_name(document.get("signature_name"))
    if ("instances" in document) == ("inputs" in document):
        raise InvalidRequest("send 'instances' (a list of rows) or 'inputs' (whole tensors)")
    write: Callable[[InferenceResponse], bytes]
    if "instances" in document:
        instances = document["instances"]
        parts = from_instances(instances, signature)
        write = partial(encode_rows, len(instances))
    else:
        parts = from_inputs(document["inputs"], signature)
        write = encode_columns
    if len(parts) > settings.max_tensors:
        raise InvalidRequest(f"{len(parts)} inputs are over the limit of {settings.max_tensors}")
    request = InferenceRequest(
        target.endpoint,
        [_tensor(part, settings) for part in parts],
        target.version,
        None,
        custom_parameters(parameters) if parameters else None,
    )
    return Decoded(request, None, write=write)


def _check_signature_name(name: Any) -> None:
    if name not in (None, "", SIGNATURE_NAME):
        raise InvalidRequest(
            f"'signature_name' {str(name)[:40]!r} is unknown; a model has one signature, "
            f"{SIGNATURE_NAME!r}"
        )


def _tensor(part: Part, settings: HttpSettings) -> Tensor:
    try:
        return _of_values(part.spec, part.value, settings)
    except InvalidTensor as error:
        raise _by_column(part) or error from None


def _of_values(spec: TensorSpec, value: Any, settings: HttpSettings) -> Tensor:
    shape, items = _unnested(spec.name, value, settings.max_dimensions)
    shape = _fitted(spec, shape)
    if spec.datatype == BYTES:
        elements = [_element(spec.name, item) for item in items]
        return Tensor(spec.name, BYTES, shape, encode_bytes(elements))
    return from_list(spec.name, spec.datatype, shape, items, settings.json_mode)


def _unnested(name: str, value: Any, max_dimensions: int) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape that nested lists have, and their values in one list."""
    shape: list[int] = []
    level = [value]
    while list in (kinds := set(map(type, level))):
        lengths = set(map(len, level)) if len(kinds) == 1 else set()
        if len(lengths) != 1:
            raise InvalidTensor(
                f"input {name!r}: at depth {len(shape)} are lists of unequal length, or lists "
                "beside values"
            )
        check_dimensions(name, len(shape) + 1, max_dimensions)
        shape += lengths
        level = list(chain.from_iterable(level))
    return tuple(shape), level


def _fitted(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the declared form of a shape: a last dimension of 1 may be written or left out."""
    candidates = [shape]
    if spec.shape[-1:] == (1,):
        candidates.append((*shape, 1))
    if shape[-1:] == (1,):
        candidates.append(shape[:-1])
    for candidate in candidates:
        if spec.accepts_shape(candidate):
            return candidate
    raise InvalidTensor(
        f"input {spec.name!r} has shape {list(spec.shape)} (-1 = any), the values make "
        f"{list(shape)}"
    )


def _element(name: str, item: Any) -> str | bytes:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and item.keys() == BLOB and isinstance(item["b64"], str):
        try:
            return base64.b64decode(item["b64"], validate=True)
        except ValueError as error:
            raise InvalidTensor(f"input {name!r}: 'b64' is not base64: {error}") from error
    raise InvalidTensor(
        f"input {name!r}: {type(item).__name__} among the values of a BYTES tensor, which are "
        'text or {"b64": "…"}'
    )


def _by_column(part: Part) -> InvalidTensor | None:
    """Return a refusal that names the column whose values are at fault, if one's are."""
    kinds = _KINDS.get(part.spec.datatype, _WHOLE_NUMBERS)
    for index, name in enumerate(part.columns):
        odd = {kind.__name__ for kind in {type(row[index]) for row in part.value} - kinds}
        if odd:
            return InvalidTensor(
                f"column {name!r}: {', '.join(sorted(odd))} among the values; input "
                f"{part.spec.name!r} is {part.spec.datatype}"
            )
    return None
