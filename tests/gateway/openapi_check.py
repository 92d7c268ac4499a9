"""What OpenAPI 3.1 and JSON Schema ask, as far as our documents use them."""

import re
from collections.abc import Iterator
from typing import Any

_METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
_KEYWORDS = {
    "type", "title", "description", "properties", "required", "items", "prefixItems", "minItems",
    "maxItems", "minimum", "maximum", "enum", "const", "anyOf", "$ref",
}  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "integer": (int,),
    "number": (int, float),
}  # fmt: skip


def check_document(document: dict[str, Any]) -> None:
    """Assert that a document has the structure that the specification requires."""
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert set(document) <= {"openapi", "info", "servers", "security", "paths", "components"}
    assert {"title", "version"} <= set(document["info"])
    assert all(isinstance(value, str) for value in document["info"].values())
    components = document["components"]
    for group in components.values():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in group)
    for schema in components["schemas"].values():
        _check_schema(schema, document)
    _check_security(document["security"], components["securitySchemes"])
    identities: list[str] = []
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert set(item) <= _METHODS | {"parameters"}
        declared = [_check_parameter(p, document) for p in item.get("parameters", [])]
        assert sorted(declared) == sorted(re.findall(r"\{(\w+)\}", path))
        for method in _METHODS & set(item):
            identities.append(item[method]["operationId"])
            _check_operation(item[method], document)
    assert identities
    assert len(identities) == len(set(identities))


def _check_security(security: list[dict[str, Any]], schemes: dict[str, Any]) -> None:
    for need in security:
        assert set(need) <= set(schemes)
    for scheme in schemes.values():
        needed = {"http": {"scheme"}, "apiKey": {"in", "name"}}[scheme["type"]]
        assert needed <= set(scheme)


def _check_parameter(parameter: dict[str, Any], document: dict[str, Any]) -> str:
    assert parameter["in"] == "path"
    assert parameter["required"] is True
    _check_schema(parameter["schema"], document)
    name: str = parameter["name"]
    return name


def _check_operation(operation: dict[str, Any], document: dict[str, Any]) -> None:
    allowed = {"operationId", "summary", "requestBody", "responses", "security"}
    assert set(operation) <= allowed
    assert operation["responses"]
    bodies = list(operation["responses"].items())
    for status, answer in bodies:
        assert re.fullmatch(r"[1-5]\d\d|[1-5]XX|default", status)
        assert answer["description"]
        _check_content(answer["content"], document)
    if "requestBody" in operation:
        _check_content(operation["requestBody"]["content"], document)


def _check_content(content: dict[str, Any], document: dict[str, Any]) -> None:
    assert content
    for kind, media in content.items():
        assert re.fullmatch(r"[\w.+-]+/[\w.+-]+", kind)
        assert set(media) <= {"schema", "example"}
        _check_schema(media["schema"], document)
        if "example" in media:
            assert list(problems(media["example"], media["schema"], document)) == []


def _check_schema(schema: dict[str, Any], document: dict[str, Any]) -> None:
    assert set(schema) <= _KEYWORDS, schema
    assert schema.get("type", "object") in _TYPES
    if "$ref" in schema:
        assert resolve(schema["$ref"], document) is not None
    assert len(set(schema.get("required", ()))) == len(schema.get("required", ()))
    assert schema.get("minItems", 0) <= schema.get("maxItems", 2**31)
    assert schema.get("minimum", float("-inf")) <= schema.get("maximum", float("inf"))
    for keyword in ("prefixItems", "anyOf", "enum"):
        assert keyword not in schema or len(schema[keyword]) > 0
    children = [*schema.get("prefixItems", ()), *schema.get("anyOf", ())]
    children += schema.get("properties", {}).values()
    children += [schema["items"]] if "items" in schema else []
    for child in children:
        _check_schema(child, document)


def resolve(reference: str, document: dict[str, Any]) -> Any:
    """Return what a reference points to; it must be inside the document."""
    start, *parts = reference.split("/")
    assert start == "#"
    found: Any = document
    for part in parts:
        found = found[part]
    return found


def problems(
    value: Any, schema: dict[str, Any], document: dict[str, Any], where: str = "$"
) -> Iterator[str]:
    """Yield where a value is not what a schema says."""
    if "$ref" in schema:
        yield from problems(value, resolve(schema["$ref"], document), document, where)
    if "const" in schema and value != schema["const"]:
        yield f"{where} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is none of {schema['enum']!r}"
    if "anyOf" in schema and all(
        any(problems(value, part, document, where)) for part in schema["anyOf"]
    ):
        yield f"{where} is none of the forms"
    if "type" in schema and (
        not isinstance(value, _TYPES[schema["type"]])
        or (isinstance(value, bool) and schema["type"] != "boolean")
    ):
        yield f"{where} is no {schema['type']}"
    elif isinstance(value, dict):
        yield from _in_object(value, schema, document, where)
    elif isinstance(value, list):
        yield from _in_list(value, schema, document, where)
    elif isinstance(value, int | float) and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
    ):
        yield f"{where} is out of range"


def _in_object(
    value: dict[str, Any], schema: dict[str, Any], document: dict[str, Any], where: str
) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where} lacks {name}"
    for name, part in schema.get("properties", {}).items():
        if name in value:
            yield from problems(value[name], part, document, f"{where}.{name}")


def _in_list(
    value: list[Any], schema: dict[str, Any], document: dict[str, Any], where: str
) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{where} has {len(value)} items"
    first = schema.get("prefixItems", [])
    for index, item in enumerate(value):
        part = first[index] if index < len(first) else schema.get("items", {})
        yield from problems(item, part, document, f"{where}[{index}]")
