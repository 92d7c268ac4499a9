"""`salver shadow`: try a version on copies of real requests."""

from typing import Annotated, Any

import typer

from salver.cli.options import (
    ControlUrlOption,
    EndpointArgument,
    ForceOption,
    HomeOption,
    Output,
    OutputOption,
    admin_client,
)
from salver.cli.output import tell

app = typer.Typer(help="Try a version on copies of real requests.", no_args_is_help=True)


@app.command()
def start(
    endpoint: EndpointArgument,
    version: Annotated[str, typer.Option("--version", help="2, NAME:2 or NAME@ALIAS.")],
    sample: Annotated[
        float, typer.Option("--sample", min=0.0001, max=1, help="Share of the requests.")
    ] = 1.0,
    force: ForceOption = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Copy requests to a version once their callers are answered, and compare what it says.

    Example: salver shadow start churn --version 3 --sample 0.2
    """
    with admin_client(home, control_url) as client:
        answer = client.start_shadow(endpoint, version, sample, force=force)
    (name,) = answer["percent"]
    tell(
        answer,
        output,
        f"{name} gets copies of {100 * sample:g} % of the requests of {endpoint} when it is loaded",
        f"next: salver shadow report {endpoint}",
    )


@app.command()
def report(
    endpoint: EndpointArgument,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show agreement, differences, failures and latency of the newest shadow.

    Example: salver shadow report churn -o json
    """
    with admin_client(home, control_url) as client:
        answer = client.shadow(endpoint)
    tell(answer, output, *_lines(answer))


@app.command()
def stop(
    endpoint: EndpointArgument,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Copy no more; the report stays.

    Example: salver shadow stop churn
    """
    with admin_client(home, control_url) as client:
        answer = client.stop_shadow(endpoint)
    tell(answer, output, f"the shadow of {endpoint} has ended; its report stays")


def _lines(answer: dict[str, Any]) -> list[str]:
    (name,) = answer["percent"]
    copies, seconds = answer["copies"], answer["seconds"]
    times = ", ".join(
        f"{quantile} {_ms(seconds['shadow'][quantile])} (primary {_ms(found)})"
        for quantile, found in seconds["primary"].items()
    )
    return [
        f"{answer['endpoint']}: shadow {name} {'goes on' if answer['active'] else 'has ended'}",
        (
            f"  agreement  {_percent(answer['agreement'])} of "
            f"{copies['agrees'] + copies['differs']} compared"
        ),
        f"  difference {_difference(answer)}",
        f"  failures   {_percent(answer['failures'])}, {copies['failed']} copies",
        f"  dropped    {copies['dropped']} copies, which were never sent",
        f"  time       {times}",
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.4g} %"


def _difference(answer: dict[str, Any]) -> str:
    over, within = answer.get("largest_difference_more_than"), answer["largest_difference_at_most"]
    if over is not None:
        return f"more than {over:g}"
    return "-" if within is None else f"at most {within:g}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"<= {1000 * seconds:g} ms"
