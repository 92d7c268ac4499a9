"""How one setting is declared, and what may be asked of its value."""

from collections.abc import Callable
from dataclasses import field
from typing import Any

from salver.core.errors import InvalidSettings

Check = Callable[[Any], None]


def setting(default: Any, text: str, check: Check | None = None) -> Any:
    """Declare one setting with its default and the help that the docs print.

    ``check`` raises ``InvalidSettings`` for a value that no process could begin with.
    """
    return field(default=default, metadata={"help": text, "check": check})


def one_of(name: str, *known: str, any_case: bool = False) -> Check:
    """Return a check that a setting's text is one of these."""

    def check(text: str) -> None:
        if (text.lower() if any_case else text) not in known:
            raise InvalidSettings(f"setting {name} is one of {', '.join(known)}, not {text!r}")

    return check


def between(name: str, least: float, most: float) -> Check:
    """Return a check that a setting's number lies between these, or is one of them."""

    def check(number: float) -> None:
        if not least <= number <= most:
            raise InvalidSettings(f"setting {name} is from {least:g} to {most:g}, not {number:g}")

    return check
