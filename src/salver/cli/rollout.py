"""`salver rollout`: change an endpoint's version step by step."""

import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from salver.cli.options import (
    ControlUrlOption,
    EndpointArgument,
    ForceOption,
    HomeOption,
    Output,
    OutputOption,
    ReasonOption,
    admin_client,
)
from salver.cli.output import emit, say
from salver.cli.rollout_view import STATES, event_lines, status_lines

app = typer.Typer(help="Change an endpoint's version step by step.", no_args_is_help=True)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)?")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_WATCH_S = 1.0

DurationText = Annotated[
    str | None, typer.Option(help="Such as 90s, 30m or 2h; without a unit seconds.")
]


@app.command()
def start(
    endpoint: EndpointArgument,
    to: Annotated[str, typer.Option("--to", help="The new version: 2, NAME:2 or NAME@ALIAS.")],
    steps: Annotated[
        str | None, typer.Option("--steps", help="Percents of traffic. [default: 5,25,50,100]")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="canary, blue-green or manual.")
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help="Promote without asking.")] = False,
    min_requests: Annotated[
        int | None, typer.Option("--min-requests", min=0, help="To the canary, in each step.")
    ] = None,
    step_time: DurationText = None,
    max_duration: DurationText = None,
    no_traffic: DurationText = None,
    keep_previous: DurationText = None,
    sample: Annotated[
        float | None,
        typer.Option("--sample", help="blue-green: percent of traffic to look at copies of."),
    ] = None,
    analysis: Annotated[
        Path | None,
        typer.Option("--analysis", help="YAML or JSON: metrics, margins, alpha.", exists=True),
    ] = None,
    force: ForceOption = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Begin a rollout; it goes on by itself, and rolls back by itself when the canary does harm.

    Example: salver rollout start churn --to 2 --steps 5,25,50,100 --auto
    """
    with admin_client(home, control_url) as client:
        answer = client.start_rollout(
            endpoint,
            to,
            steps=steps,
            strategy=strategy,
            auto=auto,
            min_requests=min_requests,
            step_s=_seconds(step_time),
            max_duration_s=_seconds(max_duration),
            no_traffic_s=_seconds(no_traffic),
            keep_previous_s=_seconds(keep_previous),
            sample=sample,
            analysis=analysis,
            force=force,
        )
    if output is not Output.TABLE:
        emit(answer, output)
        return
    say(f"{endpoint} rolls out {answer['to']} in place of {answer['from']}")
    say(f"next: salver rollout status {endpoint} --watch")


@app.command()
def status(
    endpoint: EndpointArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look every second until it ends.")
    ] = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show state, step, weights, what the comparison says, the time left, and what comes next.

    Example: salver rollout status churn --watch
    """
    with admin_client(home, control_url) as client:
        while True:
            answer = client.rollout(endpoint)
            if output is not Output.TABLE:
                emit(answer, output)
            else:
                say("\n".join(status_lines(answer)))
            if not watch or answer["state"] in STATES:
                return
            say("")
            time.sleep(_WATCH_S)


@app.command()
def pause(
    endpoint: EndpointArgument,
    reason: ReasonOption = "",
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take no further step; weights stay, and harm still rolls back.

    Example: salver rollout pause churn --reason "release freeze"
    """
    with admin_client(home, control_url) as client:
        _told(client.pause_rollout(endpoint, reason), output)


@app.command()
def resume(
    endpoint: EndpointArgument,
    reason: ReasonOption = "",
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a paused rollout go on.

    Example: salver rollout resume churn
    """
    with admin_client(home, control_url) as client:
        _told(client.resume_rollout(endpoint, reason), output)


@app.command()
def promote(
    endpoint: EndpointArgument,
    reason: ReasonOption = "",
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give the new version all traffic, whatever the comparison says so far.

    Example: salver rollout promote churn
    """
    with admin_client(home, control_url) as client:
        _told(client.promote_rollout(endpoint, reason), output)


@app.command()
def abort(
    endpoint: EndpointArgument,
    reason: ReasonOption = "",
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give the old version all traffic and mark the new one as rolled back.

    Example: salver rollout abort churn --reason "wrong model"
    """
    with admin_client(home, control_url) as client:
        _told(client.abort_rollout(endpoint, reason), output)


@app.command("set-weight")
def set_weight(
    endpoint: EndpointArgument,
    percent: Annotated[float, typer.Argument(min=0, max=100, help="Percent of the traffic.")],
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set the canary's weight in a manual rollout.

    Example: salver rollout set-weight churn 20
    """
    with admin_client(home, control_url) as client:
        _told(client.set_rollout_weight(endpoint, percent), output)


@app.command()
def history(
    endpoint: EndpointArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who or what changed an endpoint's rollouts, when, and on what grounds.

    Example: salver rollout history churn -o json
    """
    with admin_client(home, control_url) as client:
        events = client.rollout_history(endpoint, limit)
    if output is not Output.TABLE:
        emit(events, output)
        return
    emit(event_lines(events), output)


def _told(answer: dict[str, Any], output: Output) -> None:
    if output is not Output.TABLE:
        emit(answer, output)
        return
    say(f"{answer['endpoint']}: rollout {answer['rollout']} is {answer['state']}")
    say(f"next: {answer['next']}")


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2] or "s"]
