"""Whether this environment has what a model's ``requirements.txt`` asks for."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from salver.core.errors import InvalidArtifact, RequirementsUnmet

REQUIREMENTS_FILE = "requirements.txt"
_MAX_BYTES = 1024 * 1024
_MAX_LINES = 1000


class Line(NamedTuple):
    """One requirement and where it stands."""

    number: int
    requirement: Requirement


def read_requirements(folder: Path) -> list[Line]:
    """Return what a folder asks for; nothing when it has no such file.

    Raises ``InvalidArtifact`` for a line that is not a name with versions: options, paths and
    addresses would be instructions to install, and nothing is installed here.
    """
    path = folder / REQUIREMENTS_FILE
    if not path.is_file():
        return []
    if path.stat().st_size > _MAX_BYTES:
        raise InvalidArtifact(f"{REQUIREMENTS_FILE} is over {_MAX_BYTES} bytes")
    try:
        texts = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidArtifact(f"{REQUIREMENTS_FILE} is not UTF-8 text") from error
    lines = [
        Line(number, _requirement(number, text))
        for number, raw in enumerate(texts, start=1)
        if (text := _bare(raw))
    ]
    if len(lines) > _MAX_LINES:
        raise InvalidArtifact(f"{REQUIREMENTS_FILE} has over {_MAX_LINES} requirements")
    return lines


def check_requirements(folder: Path) -> None:
    """Raise ``RequirementsUnmet`` naming every package that is missing or of another version."""
    unmet = [
        f"line {line.number}: {problem}"
        for line in read_requirements(folder)
        for problem in _problems(line.requirement, set())
    ]
    if unmet:
        raise RequirementsUnmet(
            f"{REQUIREMENTS_FILE} {'; '.join(unmet[:10])}. Nothing is installed by itself: install "
            "it in the environment that runs 'salver up', restart the server, and push again"
        )


def _bare(line: str) -> str:
    """Return a line without its comment."""
    text = line.strip()
    return "" if text.startswith("#") else text.split(" #", 1)[0].strip()


def _requirement(number: int, text: str) -> Requirement:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise InvalidArtifact(
            f"{REQUIREMENTS_FILE} line {number}: {text[:80]!r} is not a package with versions, as "
            "'scipy>=1.10' is; options and paths are not followed"
        ) from error
    if requirement.url is not None:
        raise InvalidArtifact(
            f"{REQUIREMENTS_FILE} line {number}: {requirement.name} is asked for by address; name "
            "its versions instead"
        )
    return requirement


def _problems(requirement: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yield what is wrong with one requirement and with those that its extras add."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        yield f"{requirement.name} is not installed (asked for: {requirement})"
        return
    if not _satisfies(requirement, installed):
        yield f"{requirement.name} {installed} is installed, {requirement.specifier} is asked for"
    for extra in requirement.extras:
        key = (canonicalize_name(requirement.name), canonicalize_name(extra))
        if key not in seen:
            seen.add(key)
            yield from _extra_problems(requirement.name, extra, seen)


def _satisfies(requirement: Requirement, installed: str | None) -> bool:
    """Tell whether an installed version will do; one that cannot be read does only for any."""
    try:
        return requirement.specifier.contains(installed or "", prereleases=True)
    except InvalidVersion:
        return not requirement.specifier


def _extra_problems(name: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    for text in requires(name) or ():
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            continue  # what a package wrote of itself is not the model's fault
        marker = needed.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue
        if marker.evaluate({"extra": extra}):
            needed.marker = None
            yield from _problems(needed, seen)
