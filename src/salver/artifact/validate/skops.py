"""skops files: a sound zip of bounded size whose arrays are what they say."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from salver.artifact.validate.archives import check_entries
from salver.artifact.validate.base import model_file
from salver.core.errors import InvalidArtifact

_PICKLES = (".pkl", ".pickle", ".joblib")
_MAX_ENTRIES = 10_000
_MAX_TOTAL_BYTES = 4 * 1024**3
_MAX_SCHEMA_BYTES = 64 * 1024**2
_MAX_DEPTH = 200
_MAX_ELEMENTS = 1 << 40


def validate(folder: Path) -> None:
    """Check the model file of a scikit-learn artifact; a trusted pickle has no structure."""
    if any(path.name.lower().endswith(_PICKLES) for path in folder.iterdir()):
        return
    path = model_file(folder, (".skops",))
    try:
        with zipfile.ZipFile(path) as archive:
            check_entries(
                archive.infolist(),
                path.stat().st_size,
                most=_MAX_ENTRIES,
                most_bytes=_MAX_TOTAL_BYTES,
            )
            if archive.testzip() is not None:
                raise InvalidArtifact("a file in the archive is damaged")
            _schema(archive)
            for entry in archive.infolist():
                if entry.filename.endswith(".npy"):
                    _array(archive, entry)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InvalidArtifact(f"{path.name} is not a sound zip file: {error}") from error


def _schema(archive: zipfile.ZipFile) -> None:
    entry = archive.getinfo("schema.json")
    if entry.file_size > _MAX_SCHEMA_BYTES:
        raise InvalidArtifact("schema.json is too large")
    try:
        schema = orjson.loads(archive.read(entry))
    except orjson.JSONDecodeError as error:
        raise InvalidArtifact(f"schema.json is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise InvalidArtifact("schema.json is not an object")
    _depth(schema)


def _depth(schema: Any) -> None:
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise InvalidArtifact(f"schema.json nests deeper than {_MAX_DEPTH}")
        following: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(item.values())
            elif isinstance(item, list):
                following.extend(item)
        level = [item for item in following if isinstance(item, dict | list)]


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise InvalidArtifact(f"{entry.filename[:80]!r} holds Python objects, as pickles do")
        elements = 1
        for size in shape:
            elements *= size
        if elements > _MAX_ELEMENTS or elements * dtype.itemsize != entry.file_size - file.tell():
            raise InvalidArtifact(f"{entry.filename[:80]!r} does not hold the shape it declares")
