"""Options that several commands share, with the same names and help everywhere."""

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from salver.client.sync import Client

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(us|ms|s|m|h|d)?")
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST_S = 24 * 3600.0


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def duration(text: str, longest_s: float = _LONGEST_S) -> float:
    """Return the seconds of ``500us``, ``100ms``, ``10s``, ``2m``, ``1h``, ``3d`` or a number."""
    found = _DURATION.fullmatch(text.strip())
    value_s = float(found[1]) * _UNITS_S[found[2] or "s"] if found else math.nan
    if not 0 <= value_s <= longest_s:
        raise typer.BadParameter(f"{text!r} is no duration; write 500us, 100ms, 10s, 2m or 1h")
    return value_s


def duration_option(name: str, text: str, longest_s: float = _LONGEST_S) -> Any:
    """Return an option that takes a duration."""

    def parsed(given: str) -> float:
        return duration(given, longest_s)

    return typer.Option(name, parser=parsed, metavar="<duration>", help=text)


HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of the server's state. [default: $SALVER_HOME, ~/.salver]"),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]
KeyOption = Annotated[
    str, typer.Option("--api-key", envvar="SALVER_API_KEY", help="Key for the data port.")
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="SALVER_URL", help="Data port, if not the one of --home."),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", envvar="SALVER_CA", help="PEM file of whom to trust when the server speaks TLS."
    ),
]
ControlUrlOption = Annotated[
    str | None,
    typer.Option(
        "--control-url",
        envvar="SALVER_CONTROL_URL",
        help="Control API, if elsewhere; its token is taken from $SALVER_CONTROL_TOKEN.",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Even if it was rolled back, differs in signature, or has no room."
    ),
]
EndpointArgument = Annotated[str, typer.Argument(help="The endpoint.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the history.")]


def admin_client(home: Path | None, control_url: str | None = None) -> Client:
    """Return a client for the control API."""
    return Client(home=home, control_url=control_url)
