"""Reads what an owner wrote down in YAML or JSON."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from salver.core.errors import InvalidExample, NotFound

_MAX_BYTES = 16 * 1024 * 1024
_MAX_FILES = 1000
_SUFFIXES = frozenset((".yaml", ".yml", ".json"))

_BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """Takes ``true`` and ``false`` only for what they are: ``on`` is a key, ``off`` a choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return keys and values; raises for keys that JSON does not have."""
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        for key in mapping:
            if not isinstance(key, str):
                problem = f"a key is text, and {key!r} is not; put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != _BOOL]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_document(path: Path) -> Any:
    """Return a file's values; raises ``NotFound``, or ``InvalidExample`` for what is no YAML."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidExample(f"{path} is over {_MAX_BYTES} bytes")
        return yaml.load(path.read_text(), _Loader)  # noqa: S506 - a safe loader
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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
        every = yaml.load_all(path.read_text(), _Loader)
        found = [one for one in every if one is not None]
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidExample(f"{path} is not YAML or JSON: {error}") from error
    if len(found) == 1:
        return [(str(path), found[0])]
    return [(f"{path}#{number}", one) for number, one in enumerate(found, 1)]


def read_list(given: str | Path | Sequence[Any] | Mapping[str, Any], key: str) -> list[Any]:
    """Return a list, or the one below ``key``, from a file or as it is.

    Raises as ``read_document`` does.
    """
    document = read_document(Path(given)) if isinstance(given, str | Path) else given
    if isinstance(document, Mapping) and list(document) == [key]:
        document = document[key]
    if not isinstance(document, Sequence) or isinstance(document, str):
        raise InvalidExample(f"{given} must hold a list, or one below {key!r}")
    return list(document)


def read_mapping(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return keys and values from a file, or as they are; raises as ``read_document`` does."""
    if isinstance(given, Mapping):
        return dict(given)
    document = read_document(Path(given))
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InvalidExample(f"{given} must hold keys and values")
    return document
