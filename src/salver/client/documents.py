"""Reads what an owner wrote down in YAML or JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from salver.core.errors import InvalidExample, NotFound

_MAX_BYTES = 16 * 1024 * 1024


def read_document(path: Path) -> Any:
    """Return a file's values; raises ``NotFound``, or ``InvalidExample`` for what is no YAML."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidExample(f"{path} is over {_MAX_BYTES} bytes")
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidExample(f"{path} is not YAML or JSON: {error}") from error


def read_mapping(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return keys and values from a file, or as they are; raises as ``read_document`` does."""
    if isinstance(given, Mapping):
        return dict(given)
    document = read_document(Path(given))
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InvalidExample(f"{given} must hold keys and values")
    return document
