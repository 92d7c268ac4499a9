"""Names of models, endpoints and aliases; they never become paths."""

import re
from typing import NamedTuple

from salver.core.errors import InvalidName

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_VERSION_DIGITS = 9


class ModelReference(NamedTuple):
    """``NAME``, ``NAME:VERSION`` or ``NAME@ALIAS``; at most one of the last two is set."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        """Return the text form."""
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.alias}" if self.alias is not None else self.name


def check_name(name: str, what: str = "name") -> str:
    """Return the name unchanged, or raise ``InvalidName``; ``what`` says whose name it is."""
    if _NAME.fullmatch(name) is None:
        raise InvalidName(
            f"{what} {name[:140]!r} is not allowed: use 1 to 128 letters, digits, '.', '_' or "
            "'-', beginning with a letter or digit"
        )
    return name


def parse_reference(text: str) -> ModelReference:
    """Read ``NAME[:VERSION|@ALIAS]``; raises ``InvalidName`` with the reason."""
    name, separator, alias = text.partition("@")
    if separator:
        return ModelReference(check_name(name, "model"), alias=check_name(alias, "alias"))
    name, separator, version = text.partition(":")
    check_name(name, "model")
    if not separator:
        return ModelReference(name)
    if not (version.isascii() and version.isdigit() and len(version) <= _MAX_VERSION_DIGITS):
        raise InvalidName(f"version {version[:40]!r} of {name!r} is not a whole number")
    if int(version) == 0:
        raise InvalidName(f"versions of {name!r} begin at 1")
    return ModelReference(name, version=int(version))
