"""Reads what an owner declares of a model's columns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from salver.core.errors import InvalidExample, NotFound

_MAX_BYTES = 16 * 1024 * 1024
_FIELDS = "minimum, maximum, categories, sensitive"

Columns = Mapping[str, Mapping[str, Any]]


def read_columns(given: str | Path | Columns) -> dict[str, dict[str, Any]]:
    """Return declarations from a YAML or JSON file, or as they are.

    Raises ``NotFound`` or ``InvalidExample`` for a file that does not map columns to fields.
    """
    if isinstance(given, Mapping):
        return {name: dict(fields) for name, fields in given.items()}
    path = Path(given)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidExample(f"{path} is over {_MAX_BYTES} bytes")
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidExample(f"{path} is not YAML or JSON: {error}") from error
    if not isinstance(document, dict) or not all(
        isinstance(name, str) and isinstance(fields, dict) for name, fields in document.items()
    ):
        raise InvalidExample(f"{path} must map each column's name to its {_FIELDS}")
    return document
