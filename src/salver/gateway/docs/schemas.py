"""Signatures as JSON Schema (2020-12), which OpenAPI 3.1 uses for bodies."""

from typing import Any

import numpy as np

from salver.core.datatypes import BYTES, DATATYPES, DTYPES
from salver.core.signature import VARIABLE, Column, TensorSpec
from salver.gateway.oip.content_types.elements import CONTENT_TYPES

Schema = dict[str, Any]

_ROW_AXES = 2
TEXT: Schema = {"type": "string"}
DATA: Schema = {
    "type": "array",
    "description": "Flat, or nested as the shape says. Left out where binary data follows.",
}
SHAPE: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
TENSOR_PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "content_type": {
            "enum": list(CONTENT_TYPES),
            "description": "What the elements of BYTES are; wins over the request's.",
        },
        "binary_data_size": {
            "type": "integer",
            "minimum": 0,
            "description": "How many bytes of raw data after the JSON are this tensor's.",
        },
    },
}
PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "content_type": {
            "enum": list(CONTENT_TYPES),
            "description": "Holds for every input; 'pd': each input is a column of a data frame.",
        },
        "timeout": {"type": "integer", "minimum": 0, "description": "Deadline in microseconds."},
        "priority": {"type": "integer", "minimum": 0},
        "binary_data_output": {"type": "boolean", "description": "Outputs as raw data."},
    },
    "description": "Other scalars go to the model.",
}
ERROR: Schema = {
    "type": "object",
    "required": ["error", "code", "request_id"],
    "properties": {
        "error": {"type": "string", "description": "The cause and the fix, for people."},
        "code": {"type": "string", "description": "What programs match on."},
        "request_id": TEXT,
    },
}
TENSOR: Schema = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": TEXT,
        "shape": SHAPE,
        "datatype": {"enum": list(DATATYPES)},
        "data": DATA,
        "parameters": TENSOR_PARAMETERS,
    },
}
REQUESTED: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": TEXT,
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data": {"type": "boolean"},
                "content_type": {"enum": list(CONTENT_TYPES)},
            },
        },
    },
}


def tensor_schema(spec: TensorSpec) -> Schema:
    """Return the schema of one tensor of a request or an answer."""
    return {
        "type": "object",
        "title": spec.name,
        "description": _description(spec),
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": spec.name},
            "shape": _sequence([_size(size) for size in spec.shape]),
            "datatype": {"const": spec.datatype},
            "data": _data(spec),
            "parameters": TENSOR_PARAMETERS,
        },
    }


def element_schema(datatype: str, column: Column | None = None) -> Schema:
    """Return the schema of one element, within what its column declares."""
    if datatype == BYTES:
        schema: Schema = {"type": "string"}
    elif datatype == "BOOL":
        schema = {"type": "boolean"}
    elif datatype.startswith("FP"):
        schema = {"type": "number"}
    else:
        dtype: Any = DTYPES[datatype]
        limits = np.iinfo(dtype)
        schema = {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    if column is None:
        return schema
    schema["title"] = column.name
    if column.minimum is not None:
        schema["minimum"] = max(column.minimum, schema.get("minimum", column.minimum))
    if column.maximum is not None:
        schema["maximum"] = min(column.maximum, schema.get("maximum", column.maximum))
    if column.categories is not None:
        schema["enum"] = [category_value(item, datatype) for item in column.categories]
    return schema


def category_value(category: str, datatype: str) -> Any:
    """Return a category as the data has it: a number where the column holds numbers."""
    if datatype == "BOOL":
        return category == "True"
    if datatype == BYTES:
        return category
    try:
        value = float(category)
    except ValueError:
        return category
    return int(value) if value.is_integer() else value


def _description(spec: TensorSpec) -> str:
    shape = ", ".join("any" if size == VARIABLE else str(size) for size in spec.shape)
    optional = "; may be left out" if spec.optional else ""
    return f"{spec.datatype} of shape [{shape}]{optional}"


def _size(size: int) -> Schema:
    return {"type": "integer", "minimum": 0} if size == VARIABLE else {"const": size}


def _sequence(items: list[Schema]) -> Schema:
    """Return the schema of a list with exactly these items."""
    schema: Schema = {"type": "array", "minItems": len(items), "maxItems": len(items)}
    return schema | {"prefixItems": items} if items else schema


def _data(spec: TensorSpec) -> Schema:
    """Return the schema of the values: flat, or as rows whose columns are described."""
    columns = spec.columns
    if len(columns) == 1:
        element = element_schema(spec.datatype, columns[0])
    else:
        element = element_schema(spec.datatype)
    forms: list[Schema] = [{"type": "array", "items": element}]
    if len(spec.shape) == _ROW_AXES:
        row: Schema = {"type": "array", "items": element}
        if len(columns) > 1:
            row = _sequence([element_schema(spec.datatype, column) for column in columns])
        forms.append({"type": "array", "items": row})
    elif len(spec.shape) > _ROW_AXES:
        forms.append({"type": "array", "items": {"type": "array"}})
    return DATA | {"anyOf": forms}
