"""Options that several commands share, with the same names and help everywhere."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from salver.client.sync import Client


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


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
    typer.Option("--control-url", envvar="SALVER_CONTROL_URL", help="Control API, if elsewhere."),
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
