"""Code: what can be said of it before it runs."""

from pathlib import Path

from salver.artifact.code import parse
from salver.artifact.requirements import read_requirements
from salver.core.errors import InvalidArtifact

_COMPILED = (".pyc", ".pyo")


def validate(folder: Path) -> None:
    """Check that ``model.py`` is Python, and that what would run is what can be read."""
    for path in folder.rglob("*"):
        if path.name.lower().endswith(_COMPILED):
            raise InvalidArtifact(
                f"{path.relative_to(folder)} is compiled code, which may differ from the source "
                "beside it; leave it out"
            )
    parse(folder)
    read_requirements(folder)
