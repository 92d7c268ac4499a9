"""What endpoints say of themselves, as KServe's and TensorFlow Serving's clients expect it."""

from collections.abc import Callable, Iterable
from typing import Any

from salver.core.context import Principal
from salver.core.signature import TensorSpec
from salver.wire.messages import EndpointPlan, VariantPlan

SIGNATURE_NAME = "serving_default"
_DTYPES = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}


def model_list(endpoints: Iterable[EndpointPlan], principal: Principal) -> dict[str, Any]:
    """Return the document of ``GET /v1/models``: what the caller may ask."""
    allowed = principal.endpoints
    return {
        "models": sorted(
            endpoint.name
            for endpoint in endpoints
            if endpoint.tenant == principal.tenant and (allowed is None or endpoint.name in allowed)
        )
    }


def model_status(
    endpoint: EndpointPlan, version: str | None, is_ready: Callable[[str], bool]
) -> dict[str, Any]:
    """Return the state of an endpoint's versions, or of one, the newest first.

    ``is_ready`` tells whether a variant, by its id, has a worker that can answer.
    """
    ready: dict[str, bool] = {}
    for variant in endpoint.answering:
        if version in (None, variant.version):
            ready[variant.version] = ready.get(variant.version, False) or is_ready(variant.id)
    return {
        "model_version_status": [
            {
                "version": number,
                "state": "AVAILABLE" if ready[number] else "LOADING",
                "status": {"error_code": "OK", "error_message": ""},
            }
            for number in sorted(ready, key=int, reverse=True)
        ]
    }


def model_signatures(endpoint: EndpointPlan, variant: VariantPlan) -> dict[str, Any]:
    """Return the document of ``GET /v1/models/M/metadata``."""
    signature = {
        "inputs": {spec.name: _tensor(spec) for spec in variant.signature.inputs},
        "outputs": {spec.name: _tensor(spec) for spec in variant.signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": endpoint.name, "signature_name": "", "version": variant.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE_NAME: signature}}},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    sizes = [{"size": str(size), "name": ""} for size in spec.shape]
    return {
        "name": spec.name,
        "dtype": _DTYPES[spec.datatype],
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
    }
