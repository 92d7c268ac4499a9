"""Reads what an owner declares of a model's columns and sequences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salver.client.documents import read_document
from salver.core.errors import InvalidExample

_FIELDS = "minimum, maximum, categories, sensitive"

Columns = Mapping[str, Mapping[str, Any]]


def read_columns(given: str | Path | Columns) -> dict[str, dict[str, Any]]:
    """Return declarations from a YAML or JSON file, or as they are.

    Raises ``NotFound`` or ``InvalidExample`` for a file that does not map columns to fields.
    """
    if isinstance(given, Mapping):
        return {name: dict(fields) for name, fields in given.items()}
    path = Path(given)
    document = read_document(path)
    if not isinstance(document, dict) or not all(
        isinstance(name, str) and isinstance(fields, dict) for name, fields in document.items()
    ):
        raise InvalidExample(f"{path} must map each column's name to its {_FIELDS}")
    return document


def read_sequences(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return what a YAML or JSON file declares of sequences, or what is given.

    Raises ``NotFound`` or ``InvalidExample`` for a file that is not of that form.
    """
    document = dict(given) if isinstance(given, Mapping) else read_document(Path(given))
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), dict):
        raise InvalidExample(
            "a declaration of sequences is {inputs: {NAME: {axis: 1, pad: 0}}, mask: NAME}"
        )
    return document
