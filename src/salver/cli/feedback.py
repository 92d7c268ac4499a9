"""`salver feedback`: report what became of answers."""

from pathlib import Path
from typing import Annotated

import typer

from salver.cli.options import (
    CaOption,
    ControlUrlOption,
    HomeOption,
    KeyOption,
    Output,
    OutputOption,
    UrlOption,
)
from salver.cli.output import emit, note, say
from salver.client.sync import Client

_FAILED = 1
_MAX_SHOWN = 20


def command(
    endpoint: Annotated[str, typer.Argument(help="Endpoint that answered.")],
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="The answer's x-salver-request-id.")
    ] = None,
    value: Annotated[
        float | None, typer.Option("--value", help="What became of it: 1 or 0, or any number.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="JSON lines or CSV with request_id, value and perhaps metric."
        ),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="What is reported.")] = "outcome",
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    url: UrlOption = None,
    api_key: KeyOption = "",
    ca: CaOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Report what became of an answer, or of many; each counts once, however often it is sent.

    Over the control API, or over the data port where --url names that or there is no control token.

    Example: salver feedback churn --request-id ID --value 1 --metric conversion
    """
    single = request_id is not None and value is not None
    if single == (file is not None) or (not single and (request_id or value is not None)):
        raise typer.BadParameter("give either --request-id and --value, or --file")
    with Client(url, control_url=control_url, api_key=api_key, home=home, ca=ca) as client:
        if request_id is not None and value is not None:
            client.feedback(endpoint, request_id, value, metric)
            say(f"{metric} of one answer of {endpoint} is counted", output)
            return
        assert file is not None
        result = client.feedback_file(endpoint, file, metric)
    problems = result["problems"]
    if output is not Output.TABLE:
        emit(result, output)
    else:
        say(f"{result['taken']} taken, {result['repeated']} known already, {len(problems)} refused")
        for problem in problems[:_MAX_SHOWN]:
            note(f"line {problem['number']}: {problem['error']} [{problem['code']}]")
        if len(problems) > _MAX_SHOWN:
            note(f"and {len(problems) - _MAX_SHOWN} more; see all with -o json")
    if problems:
        raise typer.Exit(_FAILED)
