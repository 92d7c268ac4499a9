"""`salver deploy`: make an endpoint serve a model."""

from enum import StrEnum
from typing import Annotated

import typer

from salver.cli.options import ControlUrlOption, HomeOption, Output, OutputOption, admin_client
from salver.cli.output import emit, say


class Validation(StrEnum):
    """What happens to values outside the declared ranges and categories."""

    OFF = "off"
    WARN = "warn"
    REJECT = "reject"


class Batching(StrEnum):
    """How many of the waiting requests run together."""

    FIXED = "fixed"
    ADAPTIVE = "adaptive"


def command(
    model: Annotated[str, typer.Argument(help="NAME pins the newest version; NAME:V; NAME@ALIAS.")],
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="Name that clients call. [default: the model's]"),
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=64)] = 1,
    validation: Annotated[
        Validation, typer.Option("--validation", help="Values outside the declared ranges.")
    ] = Validation.OFF,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds to wait until it answers.")
    ] = 120.0,
    max_batch_size: Annotated[
        int | None, typer.Option("--max-batch-size", min=1, help="Rows run together at most.")
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option("--max-queue", min=1, help="Requests that may wait.")
    ] = None,
    max_batch_tokens: Annotated[
        int | None,
        typer.Option("--max-batch-tokens", min=1, help="Rows times the longest one's tokens."),
    ] = None,
    max_queue_delay_ms: Annotated[
        float,
        typer.Option("--max-queue-delay", min=0, help="Milliseconds to wait for company."),
    ] = 0.0,
    request_timeout_s: Annotated[
        float,
        typer.Option("--request-timeout", min=0.001, help="Seconds, where a request names none."),
    ] = 30.0,
    priorities: Annotated[
        bool, typer.Option("--priorities", help="Heed what requests say of their urgency.")
    ] = False,
    batching: Annotated[
        Batching, typer.Option("--batching", help="adaptive learns which batches pay.")
    ] = Batching.FIXED,
    objective_ms: Annotated[
        float,
        typer.Option("--objective", min=0, help="adaptive: milliseconds to answer within; 0 any."),
    ] = 0.0,
    max_padding: Annotated[
        float,
        typer.Option("--max-padding", min=0, max=0.99, help="Share of a batch that is filling."),
    ] = 0.1,
    cache: Annotated[
        bool, typer.Option("--cache", help="Answer equal requests alike, from memory.")
    ] = False,
    pin: Annotated[
        bool, typer.Option("--pin", help="Keep it in memory, whatever else is asked for.")
    ] = False,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Serve a version behind an endpoint; returns when it answers, or says why it does not.

    Example: salver deploy churn@champion --replicas 2
    """
    with admin_client(home, control_url) as client:
        deployed = client.deploy(
            model,
            endpoint=endpoint,
            replicas=replicas,
            validation=validation.value,
            timeout_s=timeout_s,
            max_batch_size=max_batch_size,
            max_queue=max_queue,
            request_timeout_s=request_timeout_s,
            max_batch_tokens=max_batch_tokens,
            max_queue_delay_ms=max_queue_delay_ms,
            priorities=priorities,
            batching=batching.value,
            objective_ms=objective_ms,
            max_padding=max_padding,
            cache=cache,
            pin=pin,
        )
    if output is not Output.TABLE:
        emit(deployed, output)
        return
    say(f"{deployed['name']} serves {deployed['model']}:{deployed['version']}: {deployed['url']}")
    say(f"next: salver predict {deployed['name']} rows.json")
