"""`salver conformance`: check any server of the Open Inference Protocol."""

from pathlib import Path
from typing import Annotated

import typer

from salver.cli.options import KeyOption, Output, OutputOption
from salver.cli.output import emit, note, say
from salver.core.errors import SalverError

_USAGE = 2


def command(
    url: Annotated[str, typer.Argument(help="Address of the server's HTTP port.")],
    grpc: Annotated[
        str, typer.Option("--grpc", help="HOST:PORT of its gRPC port; needs grpcio installed.")
    ] = "",
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Model to ask; repeated, another for what the first cannot be asked. "
            "[default: the first that is listed]",
        ),
    ] = None,
    example: Annotated[
        Path | None,
        typer.Option("--example", help="File with a request, if made-up values are refused."),
    ] = None,
    api_key: KeyOption = "",
    output: OutputOption = Output.TABLE,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds for each answer.")
    ] = 15.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show what went over the wire for every check.")
    ] = False,
) -> None:
    """Check a server of any make against the protocol, sentence by sentence.

    Exit codes: 0 it conforms, 1 it does not, 2 it cannot be asked.

    Example: salver conformance http://127.0.0.1:8080 --model churn
    """
    # Other commands shall not pay for the checks, nor for the HTTP client that they load.
    from salver.conformance import report, runner, session  # noqa: PLC0415

    try:
        with session.opened(
            url, *(models or ()), grpc=grpc, api_key=api_key, example=example, timeout_s=timeout_s
        ) as subject:
            outcomes = list(runner.run(subject))
    except SalverError as error:
        note(f"error: {error.message} [{error.code}]")
        raise typer.Exit(_USAGE) from error
    if output is Output.TABLE:
        for line in report.table(outcomes, verbose=verbose, secret=api_key):
            say(line)
    else:
        emit(report.document(outcomes, verbose=verbose, secret=api_key), output)
    raise typer.Exit(runner.exit_code(outcomes))
