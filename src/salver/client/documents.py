"""Reads what an owner wrote down in YAML or JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from salver.core.errors import InvalidExample, NotFound

_MAX_BYTES = 16 * 1024 * 1024
_MAX_FILES = 1000
_SUFFIXES = frozenset((".yaml", ".yml", ".json"))


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


def read_documents(path: Path) -> list[tuple[str, Any]]:
    """Return all documents of a file, or of a folder's files, each with where it comes from.

    Raises as ``read_document`` does, and ``NotFound`` for a folder without files of such names.
    """
    if not path.is_dir():
        return _documents(path)
    files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES)
    if not files:
        raise NotFound(f"{path}: no file ends in {', '.join(sorted(_SUFFIXES))}")
    if len(files) > _MAX_FILES:
        raise InvalidExample(f"{path} has over {_MAX_FILES} files")
    return [one for file in files for one in _documents(file)]


def _documents(path: Path) -> list[tuple[str, Any]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidExample(f"{path} is over {_MAX_BYTES} bytes")
        found = [one for one in yaml.safe_load_all(path.read_text()) if one is not None]
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidExample(f"{path} is not YAML or JSON: {error}") from error
    if len(found) == 1:
        return [(str(path), found[0])]
    return [(f"{path}#{number}", one) for number, one in enumerate(found, 1)]


def read_mapping(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return keys and values from a file, or as they are; raises as ``read_document`` does."""
    if isinstance(given, Mapping):
        return dict(given)
    document = read_document(Path(given))
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InvalidExample(f"{given} must hold keys and values")
    return document
