"""Schemas of reports of what became of answers."""

from salver.core.feedback import MAX_RELAYED
from salver.gateway.docs.schemas import TEXT, Schema

_COUNT: Schema = {"type": "integer", "minimum": 0}
_LIST: Schema = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_RELAYED,
    "items": {"$ref": "#/components/schemas/Report"},
}
FEEDBACK_SCHEMAS: dict[str, Schema] = {
    "Report": {
        "type": "object",
        "required": ["request_id", "value"],
        "properties": {
            "request_id": {
                "type": "string",
                "description": "The x-salver-request-id that came with the answer.",
            },
            "value": {
                "anyOf": [{"type": "number"}, {"type": "boolean"}],
                "description": "What became of it: 1 or 0, or any number.",
            },
            "metric": {"type": "string", "description": "What is reported; 'outcome' without it."},
        },
    },
    "Reports": {
        "description": "One report, or several; application/x-ndjson has one in each line.",
        "anyOf": [
            {"$ref": "#/components/schemas/Report"},
            _LIST,
            {"type": "object", "required": ["reports"], "properties": {"reports": _LIST}},
        ],
    },
    "ReportsTaken": {
        "type": "object",
        "required": ["taken", "repeated", "problems"],
        "properties": {
            "taken": {**_COUNT, "description": "Reports that are new, and stored."},
            "repeated": {**_COUNT, "description": "Reports that were stored before."},
            "problems": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["number", "code", "error"],
                    "properties": {
                        "number": {"type": "integer", "minimum": 1},
                        "code": TEXT,
                        "error": TEXT,
                    },
                },
                "description": "What is wrong with others, by their place or line.",
            },
        },
    },
}
