"""What Triton's clients know as the configuration of a model."""

from typing import Any

from salver.core.datatypes import BYTES
from salver.core.signature import VARIABLE, TensorSpec
from salver.wire.messages import EndpointPlan, VariantPlan

_MICROSECONDS_PER_MS = 1000


def max_batch_size(variant: VariantPlan) -> int:
    """Return how many rows run together at most; 0 where requests are not joined.

    Requests are joined along the first axis, which every input and output must leave variable.
    """
    signature, limit = variant.signature, variant.policy.max_batch_size
    specs = (*signature.inputs, *signature.outputs)
    joins = limit > 1 and all(spec.shape[:1] == (VARIABLE,) for spec in specs)
    return limit if joins else 0


def model_config(endpoint: EndpointPlan, variant: VariantPlan) -> dict[str, Any]:
    """Return the document of ``GET /v2/models/M/config``."""
    limit, policy = max_batch_size(variant), variant.policy
    versions = sorted({int(item.version) for item in endpoint.answering})
    document: dict[str, Any] = {
        "name": endpoint.name,
        "platform": variant.runtime,
        "backend": variant.runtime,
        "version_policy": {"specific": {"versions": versions}},
        "max_batch_size": limit,
        "input": [_input(spec, batched=limit > 0) for spec in variant.signature.inputs],
        "output": [_tensor(spec, batched=limit > 0) for spec in variant.signature.outputs],
        "instance_group": [{"kind": "KIND_CPU", "count": max(1, len(variant.workers))}],
        "default_model_filename": "",
        "parameters": {},
        "model_warmup": [],
        "model_transaction_policy": {"decoupled": False},
    }
    if endpoint.cache and variant.idempotent:
        document["response_cache"] = {"enable": True}
    if limit:
        document["dynamic_batching"] = {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": round(policy.max_queue_delay_ms * _MICROSECONDS_PER_MS),
            "default_queue_policy": {"max_queue_size": policy.max_queue},
        }
    return document


def _input(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    return {**_tensor(spec, batched=batched), "format": "FORMAT_NONE", "optional": spec.optional}


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    name = "STRING" if spec.datatype == BYTES else spec.datatype
    dims = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": list(dims)}
