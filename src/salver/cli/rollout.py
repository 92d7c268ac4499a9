"""`salver rollout`: change an endpoint's version step by step."""

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
    duration_option,
)
from salver.cli.output import emit, say, tell
from salver.cli.rollout_view import STATES, event_lines, status_lines

app = typer.Typer(help="Change an endpoint's version step by step.", no_args_is_help=True)

_WATCH_S = 1.0
_LONGEST_S = 365 * 86_400.0

StepTimeOption = Annotated[
    float | None, duration_option("--step-time", "Least time of each step.", _LONGEST_S)
]
MaxDurationOption = Annotated[
    float | None,
    duration_option("--max-duration", "Pause if it takes longer. [default: 30m]", _LONGEST_S),
]
NoTrafficOption = Annotated[
    float | None,
    duration_option("--no-traffic", "Pause if nobody asks so long. [default: 60s]", _LONGEST_S),
]
KeepPreviousOption = Annotated[
    float | None,
    duration_option("--keep-previous", "To go back to at once. [default: 1h]", _LONGEST_S),
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
    step_time: StepTimeOption = None,
    max_duration: MaxDurationOption = None,
    no_traffic: NoTrafficOption = None,
    keep_previous: KeepPreviousOption = None,
    sample: Annotated[
        float | None,
        typer.Option("--sample", help="blue-green: percent of traffic to look at copies of."),
    ] = None,
    analysis: Annotated[
        Path | None,
        typer.Option("--analysis", help="YAML or JSON: metrics, margins, alpha.", exists=True),
    ] = None,
    webhooks: Annotated[
        Path | None,
        typer.Option("--webhooks", help="YAML or JSON: who is told besides.", exists=True),
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
            step_s=step_time,
            max_duration_s=max_duration,
            no_traffic_s=no_traffic,
            keep_previous_s=keep_previous,
            sample=sample,
            analysis=analysis,
            webhooks=webhooks,
            force=force,
        )
    tell(
        answer,
        output,
        f"{endpoint} rolls out {answer['to']} in place of {answer['from']}",
        f"next: salver rollout status {endpoint} --watch",
    )


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
def approve(
    endpoint: EndpointArgument,
    comment: Annotated[str, typer.Option("--comment", help="For the history.")] = "",
    to: Annotated[
        str, typer.Option("--to", help="Of this version, for a later change: 2 or NAME:2.")
    ] = "",
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Approve of the new version, where the endpoint demands that people do; abort is the no.

    Example: salver rollout approve churn --comment "checked with the data team"
    """
    with admin_client(home, control_url) as client:
        answer = client.approve_rollout(endpoint, comment, version=to)
    if output is Output.TABLE and "version" in answer:
        have, needed = len(answer["approvals"]["by"]), answer["approvals"]["needed"]
        say(f"{endpoint}: {answer['version']} has {have} of {needed} approvals")
        return
    _told(answer, output)


@app.command()
def promote(
    endpoint: EndpointArgument,
    reason: ReasonOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Without asking webhooks; approvals still count.")
    ] = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give the new version all traffic, whatever the comparison says so far.

    Example: salver rollout promote churn
    """
    with admin_client(home, control_url) as client:
        _told(client.promote_rollout(endpoint, reason, force=force), output)


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
    tell(
        answer,
        output,
        f"{answer['endpoint']}: rollout {answer['rollout']} is {answer['state']}",
        f"next: {answer['next']}",
    )
