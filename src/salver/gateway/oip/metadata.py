"""What the server and its endpoints say of themselves."""

from collections.abc import Sequence
from typing import Any

import salver
from salver.core.errors import NotReady, VersionNotFound
from salver.core.signature import Column, TensorSpec
from salver.wire.messages import EndpointPlan, VariantPlan

EXTENSIONS = ("binary_tensor_data", "parameters")
_RETRY_AFTER_S = 1.0


def server_metadata(extensions: Sequence[str] = ()) -> dict[str, Any]:
    """Return the document of ``GET /v2``, with these extensions besides the protocol's own."""
    names = sorted((*EXTENSIONS, *extensions))
    return {"name": "salver", "version": salver.__version__, "extensions": names}


def model_metadata(endpoint: EndpointPlan, variant: VariantPlan) -> dict[str, Any]:
    """Return the document of ``GET /v2/models/M``."""
    versions = sorted({item.version for item in endpoint.answering}, key=int)
    return {
        "name": endpoint.name,
        "versions": versions,
        "platform": variant.runtime,
        "inputs": [_tensor(spec) for spec in variant.signature.inputs],
        "outputs": [_tensor(spec) for spec in variant.signature.outputs],
    }


def variant_of(endpoint: EndpointPlan, version: str | None) -> VariantPlan:
    """Return the variant of a version, or the first; raises ``VersionNotFound``, ``NotReady``."""
    for variant in endpoint.answering:
        if version is None or variant.version == version:
            return variant
    if version is None:
        raise NotReady(
            f"endpoint {endpoint.name!r} is not ready: {endpoint.reason or 'it is loading'}",
            retry_after_s=_RETRY_AFTER_S,
        )
    raise VersionNotFound(f"endpoint {endpoint.name!r} does not serve version {version[:40]!r}")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": list(spec.shape),
    }
    parameters: dict[str, Any] = {}
    if spec.columns:
        parameters["columns"] = [_column(column) for column in spec.columns]
    if spec.optional:
        parameters["optional"] = True
    if parameters:
        document["parameters"] = parameters
    return document


def _column(column: Column) -> dict[str, Any]:
    document: dict[str, Any] = {"name": column.name}
    if column.categories is not None:
        document["categories"] = list(column.categories)
    limits = {"minimum": column.minimum, "maximum": column.maximum}
    return document | {key: value for key, value in limits.items() if value is not None}
