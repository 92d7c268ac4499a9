"""`salver key`: make API keys."""

import hashlib
import secrets
from typing import Annotated

import orjson
import typer

from salver.cli.output import note
from salver.core.context import Rate
from salver.core.errors import InvalidSettings
from salver.core.names import check_name

app = typer.Typer(help="Make API keys for the data port.", no_args_is_help=True)
_KEY_BYTES = 32


@app.callback()
def root() -> None:
    """Make API keys for the data port."""


@app.command()
def new(
    principal: Annotated[str, typer.Option("--principal", help="Who will hold the key.")],
    endpoints: Annotated[
        str | None, typer.Option("--endpoints", help="Comma-separated; any if left out.")
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option("--max-in-flight", min=1, help="Requests open at once.")
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="May load and unload models over the data port.")
    ] = False,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests a second in the long run.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, help="Requests at once; takes --rate.")
    ] = None,
) -> None:
    """Print a fresh key (standard error) and its entry for the --api-keys file.

    The file's first line is 'keys:', written once; each entry goes below it.

    Example: salver key new --principal alice --endpoints churn >> keys.yaml
    """
    check_name(principal, "principal")
    key = secrets.token_urlsafe(_KEY_BYTES)
    entry: dict[str, object] = {
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "principal": principal,
    }
    if endpoints is not None:
        entry["endpoints"] = [check_name(name, "endpoint") for name in endpoints.split(",")]
    if max_in_flight is not None:
        entry["max_in_flight"] = max_in_flight
    if admin:
        entry["admin"] = True
    if burst is not None and rate is None:
        raise InvalidSettings("--burst takes --rate, which says how often in the long run")
    if rate is not None:
        checked = Rate.checked(rate, burst, "--rate and --burst")
        entry["rate"], entry["burst"] = checked.per_s, checked.burst
    note(f"key, shown once: {key}")
    note("add the next line under 'keys:' in the file given to 'salver up --api-keys':")
    typer.echo(f"  - {orjson.dumps(entry).decode()}")
