"""OpenAPI 3.1 documents of the data port and of one endpoint."""

from typing import Any

import salver
from salver.core.signature import Signature, TensorSpec
from salver.gateway.docs.example import example_body
from salver.gateway.docs.feedback import FEEDBACK_SCHEMAS
from salver.gateway.docs.schemas import (
    ERROR,
    PARAMETERS,
    REQUESTED,
    TENSOR,
    TEXT,
    Schema,
    tensor_schema,
)
from salver.wire.messages import EndpointPlan, VariantPlan

Document = dict[str, Any]

OPENAPI_VERSION = "3.1.0"
_JSON = "application/json"
_BASE = "/v2/models"
_POLICIES = {
    "off": "Declared ranges and categories are not checked.",
    "warn": "A value outside its declared range or categories is answered with a warning.",
    "reject": "A value outside its declared range or categories is refused.",
}
_READY: Schema = {
    "type": "object",
    "properties": {"name": TEXT, "ready": {"type": "boolean"}, "live": {"type": "boolean"}},
}
_METADATA: Schema = {
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs"],
    "properties": {
        "name": TEXT,
        "versions": {"type": "array", "items": TEXT},
        "platform": TEXT,
        "inputs": {"type": "array", "items": {"type": "object"}},
        "outputs": {"type": "array", "items": {"type": "object"}},
    },
}
_SERVER: Schema = {
    "type": "object",
    "properties": {
        "name": TEXT,
        "version": TEXT,
        "extensions": {"type": "array", "items": TEXT},
    },
}
_OPENAPI: Schema = {"type": "object", "description": "An OpenAPI document."}
_COLUMN = "One column of a data frame, of shape [n] or [n, 1]; numbers of any datatype."
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
# The empty one: a server without a key file asks for no key.
_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}, {}]


def server_document() -> Document:
    """Return the document of the whole data port, with endpoints as ``{model}``."""
    paths: dict[str, Any] = {
        "/v2": _get("server", "What this server is", _SERVER),
        "/v2/health/live": _open(_get("live", "Whether the process runs", _READY)),
        "/v2/health/ready": _open(_get("ready", "Whether requests are answered", _READY)),
        "/v2/docs/openapi.json": _get("docs", "This document", _OPENAPI),
    }
    model = f"{_BASE}/{{model}}"
    for base, suffix, names in (
        (model, "", ("model",)),
        (f"{model}/versions/{{version}}", "_of_version", ("model", "version")),
    ):
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": TEXT} for name in names
        ]
        for path, item in _model_paths(base, suffix, None).items():
            paths[path] = {"parameters": parameters, **item}
    of_model = paths[f"{model}/infer"]["parameters"]
    paths[f"{model}/feedback"] = {"parameters": of_model, **_feedback()}
    inputs = {"type": "array", "minItems": 1, "items": _reference("Tensor")}
    outputs = {"type": "array", "items": _reference("Tensor")}
    schemas = {
        "InferenceRequest": _request(inputs),
        "InferenceResponse": _response(outputs),
        "Tensor": TENSOR,
        "RequestedOutput": REQUESTED,
    }
    about = (
        "The Open Inference Protocol. Each endpoint describes itself at /v2/models/{model}/docs."
    )
    return _document("Salver", salver.__version__, about, paths, schemas)


def endpoint_document(
    endpoint: EndpointPlan, variant: VariantPlan, version: str | None
) -> Document:
    """Return the document of one endpoint as a variant answers it.

    With ``version``, the paths are those that ask this version only.
    """
    base = f"{_BASE}/{endpoint.name}" + ("" if version is None else f"/versions/{version}")
    signature = variant.signature
    schemas: dict[str, Schema] = {
        "InferenceRequest": _request(_inputs(signature)),
        "InferenceResponse": _response(_outputs(signature)),
        "RequestedOutput": REQUESTED
        | {
            "properties": REQUESTED["properties"]
            | {"name": {"enum": [spec.name for spec in signature.outputs]}}
        },
    }
    columns = _columns(signature)
    if columns:
        named = TENSOR["properties"] | {"name": {"enum": columns}}
        schemas["Column"] = TENSOR | {"properties": named, "description": _COLUMN}
    # Names of tensors may be anything, names of components may not.
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for number, spec in enumerate(specs, start=1):
            schemas[f"{kind}_{number}"] = tensor_schema(spec)
    example = example_body(signature.inputs)
    about = (
        f"Version {variant.version} ({variant.runtime}). {_POLICIES.get(endpoint.validation, '')}"
    )
    paths = _model_paths(base, "", example)
    if version is None:
        paths[f"{base}/feedback"] = _feedback()
    return _document(endpoint.name, variant.version, about, paths, schemas)


def _document(
    title: str, version: str, description: str, paths: dict[str, Any], schemas: dict[str, Schema]
) -> Document:
    return {
        "openapi": OPENAPI_VERSION,
        "info": {"title": title, "version": version, "description": description},
        "security": _SECURITY,
        "paths": paths,
        "components": {
            "schemas": schemas | FEEDBACK_SCHEMAS | {"ModelMetadata": _METADATA, "Error": ERROR},
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _model_paths(base: str, suffix: str, example: dict[str, Any] | None) -> dict[str, Any]:
    """Return the paths below one endpoint."""
    body: dict[str, Any] = {"schema": _reference("InferenceRequest")}
    if example is not None:
        body["example"] = example
    infer = _operation(f"infer{suffix}", "Ask the model", _reference("InferenceResponse"))
    infer["requestBody"] = {"required": True, "content": {_JSON: body}}
    metadata = _reference("ModelMetadata")
    return {
        f"{base}/infer": {"post": infer},
        base: _get(f"metadata{suffix}", "What the model takes and gives", metadata),
        f"{base}/ready": _get(f"model_ready{suffix}", "Whether it answers", _READY),
        f"{base}/docs/openapi.json": _get(f"model_docs{suffix}", "Its OpenAPI", _OPENAPI),
    }


def _feedback() -> dict[str, Any]:
    """Return the path on which callers report; which version answered is in the id."""
    report = _operation("feedback", "Say what became of answers", _reference("ReportsTaken"))
    media = {"schema": _reference("Reports")}
    lines = {"schema": {"type": "string", "description": "A Report in each line."}}
    content = {_JSON: media, "application/x-ndjson": lines}
    report["requestBody"] = {"required": True, "content": content}
    return {"post": report}


def _operation(identity: str, summary: str, answer: Schema) -> dict[str, Any]:
    failed = {"description": "Refused or failed", "content": _content(_reference("Error"))}
    return {
        "operationId": identity,
        "summary": summary,
        "responses": {
            "200": {"description": "Answered", "content": _content(answer)},
            "default": failed,
        },
    }


def _get(identity: str, summary: str, answer: Schema) -> dict[str, Any]:
    return {"get": _operation(identity, summary, answer)}


def _open(item: dict[str, Any]) -> dict[str, Any]:
    """Return a path that needs no key."""
    return {method: operation | {"security": []} for method, operation in item.items()}


def _content(schema: Schema) -> dict[str, Any]:
    return {_JSON: {"schema": schema}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _request(inputs: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "description": "Comes back with the answer."},
            "parameters": PARAMETERS,
            "inputs": inputs,
            "outputs": {
                "type": "array",
                "items": _reference("RequestedOutput"),
                "description": "Which outputs to answer, in this order; all of them without it.",
            },
        },
    }


def _response(outputs: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": TEXT,
            "model_version": TEXT,
            "id": TEXT,
            "parameters": {"type": "object"},
            "outputs": outputs,
        },
    }


def _inputs(signature: Signature) -> Schema:
    """Return the schema of the inputs; columns of a data frame may take their place."""
    needed = [spec for spec in signature.inputs if not spec.optional]
    forms = _references("input", signature.inputs)
    about = "Each input once."
    if _columns(signature):
        forms.append(_reference("Column"))
        about = "Each input once, or with content_type 'pd' each column once."
    return {
        "type": "array",
        "minItems": max(1, len(needed)),
        "items": {"anyOf": forms},
        "description": about,
    }


def _columns(signature: Signature) -> list[str]:
    names = [column.name for spec in signature.inputs for column in spec.columns]
    return list(dict.fromkeys(names))


def _outputs(signature: Signature) -> Schema:
    return {"type": "array", "items": {"anyOf": _references("output", signature.outputs)}}


def _references(kind: str, specs: tuple[TensorSpec, ...]) -> list[Schema]:
    return [_reference(f"{kind}_{number}") for number in range(1, len(specs) + 1)]
