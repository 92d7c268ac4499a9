"""What may be said of an endpoint when it is deployed."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from salver.cli.options import duration_option
from salver.core.hosting import MAX_GPU, MAX_INSTANCES, MAX_THREADS
from salver.core.rollouts import MAX_APPROVALS

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMGT]i?)?B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_MOST_BYTES = 1 << 62


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


class Hosting(StrEnum):
    """Which worker runs the model; auto shares unless it is code, streams, or has limits."""

    AUTO = "auto"
    SHARED = "shared"
    DEDICATED = "dedicated"


class Provider(StrEnum):
    """What ONNX Runtime computes with; auto is CUDA where that works, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


def size_bytes(text: str) -> int:
    """Read ``2GB``, ``512MiB`` or a number of bytes; 0 for nothing."""
    if not text:
        return 0
    found = _SIZE.fullmatch(text.strip())
    number, unit = (found[1], (found[2] or "").upper()) if found is not None else ("", "")
    base = 1024 if unit.endswith("I") else 1000
    scale: int = base ** _POWERS[unit.removesuffix("I")]
    size = round(float(number) * scale) if number else _MOST_BYTES
    if size >= _MOST_BYTES:
        raise typer.BadParameter(f"{text[:40]!r} is no size; write 2GB, 512MiB or bytes")
    return size


def scaling(
    least: int | None,
    most: int | None,
    on: ScaleOn,
    target: float | None,
    down_delay_s: float | None,
) -> dict[str, Any]:
    """Return what the number of replicas follows, as ``DeployOptions`` has it."""
    return {
        "min_replicas": least,
        "max_replicas": most,
        "scale_on": on.value,
        "scale_target": target,
        "scale_down_delay_s": down_delay_s,
    }


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
    float | None,
    typer.Option(
        "--request-timeout",
        min=0.001,
        help="Seconds, where a request names none. [default: http.request_timeout_s]",
    ),
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
IdleOption = Annotated[
    float | None,
    duration_option("--idle", "--min-replicas 0: time unused until it leaves, such as 5m."),
]
WarmUpOption = Annotated[
    bool, typer.Option("--warm-up/--no-warm-up", help="Run golden examples before it answers.")
]
PinOption = Annotated[
    bool, typer.Option("--pin", help="Keep it in memory, whatever else is asked for.")
]
RoutingKeyOption = Annotated[
    str | None,
    typer.Option(
        "--routing-key",
        help="By what callers stick to a variant: header:NAME, parameter:NAME or input:NAME "
        "(an input, or a column of a table).",
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
    int | None,
    typer.Option("--min-replicas", min=0, max=64, help="0: none while idle. [default: --replicas]"),
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
HostingOption = Annotated[
    Hosting, typer.Option("--hosting", help="A worker with others, or one of its own.")
]
InstancesOption = Annotated[
    int,
    typer.Option("--instances", min=1, max=MAX_INSTANCES, help="Batches at a time in a worker."),
]
ThreadsOption = Annotated[
    int,
    typer.Option("--threads", min=0, max=MAX_THREADS, help="For one batch; 0 engine.threads."),
]
CpusOption = Annotated[
    str,
    typer.Option("--cpus", help="2 (so many), 0.5 (part) or 0-3,6 (these), in workers of its own."),
]
MemoryLimitOption = Annotated[
    str, typer.Option("--memory-limit", help="2GB or 512MiB, for each worker of its own.")
]
GpuOption = Annotated[
    int | None,
    typer.Option("--gpu", min=0, max=MAX_GPU, help="The only GPU that its own workers see."),
]
ProviderOption = Annotated[
    Provider, typer.Option("--provider", help="What ONNX and PyTorch compute with.")
]
ApprovalsOption = Annotated[
    int | None,
    typer.Option(
        "--approvals",
        min=0,
        max=MAX_APPROVALS,
        help="People who must approve of later versions. [default: as before]",
    ),
]
WebhooksOption = Annotated[
    Path | None,
    typer.Option(
        "--webhooks",
        help="YAML or JSON: who is told of rollouts. [default: as before]",
        exists=True,
    ),
]
