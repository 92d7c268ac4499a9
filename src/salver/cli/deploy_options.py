"""What may be said of an endpoint when it is deployed."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Validation(StrEnum):
    """What happens to values outside the declared ranges and categories."""

    OFF = "off"
    WARN = "warn"
    REJECT = "reject"


class ScaleOn(StrEnum):
    """What the number of replicas follows."""

    CONCURRENCY = "concurrency"
    QUEUE = "queue"
    RATE = "rate"


class Batching(StrEnum):
    """How many of the waiting requests run together."""

    FIXED = "fixed"
    ADAPTIVE = "adaptive"


ModelArgument = Annotated[
    str, typer.Argument(help="NAME pins the newest version; NAME:V; NAME@ALIAS.")
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", help="Name that clients call. [default: the model's]")
]
ReplicasOption = Annotated[int, typer.Option("--replicas", min=1, max=64)]
ValidationOption = Annotated[
    Validation, typer.Option("--validation", help="Values outside the declared ranges.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds to wait until it answers.")
]
MaxBatchSizeOption = Annotated[
    int | None, typer.Option("--max-batch-size", min=1, help="Rows run together at most.")
]
MaxQueueOption = Annotated[
    int | None, typer.Option("--max-queue", min=1, help="Requests that may wait.")
]
MaxBatchTokensOption = Annotated[
    int | None,
    typer.Option("--max-batch-tokens", min=1, help="Rows times the longest one's tokens."),
]
MaxQueueDelayOption = Annotated[
    float, typer.Option("--max-queue-delay", min=0, help="Milliseconds to wait for company.")
]
RequestTimeoutOption = Annotated[
    float,
    typer.Option("--request-timeout", min=0.001, help="Seconds, where a request names none."),
]
PrioritiesOption = Annotated[
    bool, typer.Option("--priorities", help="Heed what requests say of their urgency.")
]
BatchingOption = Annotated[
    Batching, typer.Option("--batching", help="adaptive learns which batches pay.")
]
ObjectiveOption = Annotated[
    float,
    typer.Option("--objective", min=0, help="adaptive: milliseconds to answer within; 0 any."),
]
MaxPaddingOption = Annotated[
    float,
    typer.Option("--max-padding", min=0, max=0.99, help="Share of a batch that is filling."),
]
CacheOption = Annotated[
    bool, typer.Option("--cache", help="Answer equal requests alike, from memory.")
]
PinOption = Annotated[
    bool, typer.Option("--pin", help="Keep it in memory, whatever else is asked for.")
]
RoutingKeyOption = Annotated[
    str | None,
    typer.Option(
        "--routing-key",
        help="By what callers stick to a variant: header:NAME, parameter:NAME or input:NAME.",
    ),
]
RoutingOption = Annotated[
    Path | None,
    typer.Option(
        "--routing", help="YAML or JSON: key, and rules for who gets which variant.", exists=True
    ),
]
RolloutStepsOption = Annotated[
    str | None,
    typer.Option(
        "--rollout-steps",
        help="With NAME@ALIAS: when it moves, change over in these percents, such as 5,25,50,100.",
    ),
]
RolloutAutoOption = Annotated[
    bool, typer.Option("--rollout-auto", help="With --rollout-steps: promote without asking.")
]
MinReplicasOption = Annotated[
    int | None, typer.Option("--min-replicas", min=0, max=64, help="[default: --replicas]")
]
MaxReplicasOption = Annotated[
    int | None,
    typer.Option("--max-replicas", min=1, max=64, help="Let their number follow what is asked."),
]
ScaleOnOption = Annotated[
    ScaleOn, typer.Option("--scale-on", help="Open requests, waiting, or requests a second.")
]
ScaleTargetOption = Annotated[
    float | None,
    typer.Option("--scale-target", help="What one replica takes; for queue: milliseconds."),
]
ScaleDownDelayOption = Annotated[
    float | None,
    typer.Option("--scale-down-delay", min=0, max=3600, help="Seconds until there are fewer."),
]
