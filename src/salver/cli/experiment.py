"""`salver experiment`: which of several versions does better?"""

import difflib
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
from salver.cli.output import emit, say, tell
from salver.client.documents import read_document

app = typer.Typer(help="Find out which of several versions does better.", no_args_is_help=True)

_COLUMNS = ("arm", "weight", "requests", "outcomes", "mean", "estimate", "low", "high", "verdict")
_THOMPSON = "thompson"
_KNOWN = ("arms", "split", "metric", "floor", "prefer", "minimum", "maximum")


@app.command()
def start(
    endpoint: EndpointArgument,
    arms: Annotated[str | None, typer.Option("--arms", help="Versions, such as 1,2.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Percent of each, such as 50,50, or 'thompson' to follow success."
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What feedback reports; see 'salver feedback'.")
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option("--floor", help="Percent that each arm keeps with 'thompson'; 10 by default."),
    ] = None,
    prefer: Annotated[
        str | None,
        typer.Option("--prefer", help="With 'thompson': 'more' or 'less' of the metric is better."),
    ] = None,
    minimum: Annotated[
        float | None, typer.Option("--minimum", help="Refuse outcomes that are less.")
    ] = None,
    maximum: Annotated[
        float | None, typer.Option("--maximum", help="Refuse outcomes that are more.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="YAML or JSON: arms, split, metric and the others."),
    ] = None,
    force: ForceOption = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Split requests between versions, of which one is what the endpoint serves now.

    Example: salver experiment start churn --arms 1,2 --split 50,50 --metric conversion
    """
    said = {
        "arms": arms and arms.split(","),
        "split": split and _split(split),
        "metric": metric,
        "floor": floor,
        "prefer": prefer,
        "minimum": minimum,
        "maximum": maximum,
    }
    chosen = {
        **_from_file(file),
        **{name: value for name, value in said.items() if value is not None},
    }
    for name in ("arms", "split"):
        if name not in chosen:
            raise typer.BadParameter(f"say --{name}, here or in the file")
    with admin_client(home, control_url) as client:
        answer = client.start_experiment(endpoint, force=force, **chosen)
    parts = ", ".join(f"{name} {part:g} %" for name, part in answer["percent"].items())
    follows = ", and follows success" if answer["split"] == _THOMPSON else ""
    tell(
        answer,
        output,
        f"{endpoint} is split: {parts}{follows}",
        f"next: report outcomes with 'salver feedback {endpoint}', then salver experiment report",
    )


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
    ratio = answer["sample_ratio"]
    if not ratio["holds"]:
        say("the arms did not get the traffic that their weights say, so no verdict is given:")
        say(f"  {ratio['reason']}")
        say("  find out what loses or adds requests of an arm, then start a new experiment")
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
    tell(answer, output, f"the experiment of {endpoint} has ended; its report stays")


@app.command()
def history(
    endpoint: EndpointArgument,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how a split that follows success has changed, and why.

    Example: salver experiment history churn
    """
    with admin_client(home, control_url) as client:
        changes = client.experiment_history(endpoint)
    if output is not Output.TABLE:
        emit(changes, output)
        return
    rows = [
        {
            "change": change["change"],
            "arm": arm,
            "percent": percent,
            "best": round(change["best"][arm], 3),
            "mean": change["means"][arm],
        }
        for change in changes
        for arm, percent in change["percent"].items()
    ]
    emit(rows, output, ("change", "arm", "percent", "best", "mean"))


@app.command()
def covariate(
    endpoint: EndpointArgument,
    file: Annotated[Path, typer.Argument(help="CSV with the columns key and value.")],
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what was known of callers before the experiment, by routing key: narrower intervals.

    Example: salver experiment covariate churn before.csv
    """
    with admin_client(home, control_url) as client:
        callers = client.covariate_file(endpoint, file)
    tell({"callers": callers}, output, f"what was known of {callers} callers is taken into account")


def _split(text: str) -> list[float] | str:
    if text == _THOMPSON:
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither percents such as 50,50 nor thompson") from (
            error
        )


def _from_file(path: Path | None) -> dict[str, Any]:
    """Return what a file says of an experiment."""
    if path is None:
        return {}
    document = read_document(path)
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{path}: say arms and split by their names")
    for key in document:
        if key not in _KNOWN:
            near = difflib.get_close_matches(str(key), _KNOWN, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KNOWN)}"
            raise typer.BadParameter(f"{path}: unknown key {str(key)[:40]!r}; {hint}")
    return {str(key): value for key, value in document.items()}
