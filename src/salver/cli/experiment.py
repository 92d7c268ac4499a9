"""`salver experiment`: which of several versions does better?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from salver.cli.experiment_plot import plot_svg
from salver.cli.options import (
    ControlUrlOption,
    EndpointArgument,
    ForceOption,
    HomeOption,
    Output,
    OutputOption,
    admin_client,
)
from salver.cli.output import emit, say

app = typer.Typer(help="Find out which of several versions does better.", no_args_is_help=True)

_COLUMNS = ("arm", "weight", "requests", "outcomes", "mean", "estimate", "low", "high", "verdict")


@app.command()
def start(
    endpoint: EndpointArgument,
    arms: Annotated[str, typer.Option("--arms", help="Versions, such as 1,2.")],
    split: Annotated[str, typer.Option("--split", help="Percent of each, such as 50,50.")],
    metric: Annotated[
        str, typer.Option("--metric", help="What feedback reports; see 'salver feedback'.")
    ] = "outcome",
    force: ForceOption = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Split requests between versions, of which one is what the endpoint serves now.

    Example: salver experiment start churn --arms 1,2 --split 50,50 --metric conversion
    """
    with admin_client(home, control_url) as client:
        answer = client.start_experiment(
            endpoint, arms.split(","), _numbers(split), metric, force=force
        )
    if output is not Output.TABLE:
        emit(answer, output)
        return
    parts = ", ".join(f"{name} {part:g} %" for name, part in answer["percent"].items())
    say(f"{endpoint} is split: {parts}")
    say(f"next: report outcomes with 'salver feedback {endpoint}', then salver experiment report")


@app.command()
def report(
    endpoint: EndpointArgument,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write the intervals to an SVG file.")
    ] = None,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show each arm beside the first; the intervals hold however often one looks.

    Example: salver experiment report churn --plot out.svg
    """
    with admin_client(home, control_url) as client:
        answer = client.experiment(endpoint)
    if plot is not None:
        plot.write_text(plot_svg(answer))
    if output is not Output.TABLE:
        emit(answer, output)
        return
    goes = "goes on" if answer["active"] else "has ended"
    say(f"{endpoint}: experiment {answer['number']} by {answer['metric']} {goes}")
    emit(answer["arms"], output, _COLUMNS)
    share = 100 * answer["confidence"]
    say(f"low and high hold all the time, for all arms together, with a chance of {share:g} %")
    if plot is not None:
        say(f"plot in {plot}")


@app.command()
def stop(
    endpoint: EndpointArgument,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send all requests to the primary version again; the report stays, and feedback counts on.

    Example: salver experiment stop churn
    """
    with admin_client(home, control_url) as client:
        answer: dict[str, Any] = client.stop_experiment(endpoint)
    if output is not Output.TABLE:
        emit(answer, output)
        return
    say(f"the experiment of {endpoint} has ended; its report stays")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not percents such as 50,50") from error
