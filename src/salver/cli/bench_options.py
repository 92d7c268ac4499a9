"""The options of `salver bench`."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from salver.bench.figures import Arrivals
from salver.cli.options import Output, duration_option

RATE_PER_S = 100.0
DURATION_S = 10.0
RAMP_STEP_S = 3.0
WARMUP_S = 1.0
SLO_S = 0.1
TIMEOUT_S = 10.0
MAX_RATE_PER_S = 20_000.0
MAX_DURATION_S = 600.0
CONNECTIONS = 1024
GRPC_CONNECTIONS = 16


class Protocol(StrEnum):
    """What the endpoint is asked over."""

    REST = "rest"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked of one run of the command; durations in seconds, shares of 1."""

    endpoint: str
    file: str | None
    rate_per_s: float | None
    ramp: bool
    cold: bool
    duration_s: float
    warmup_s: float
    arrivals: Arrivals
    slo_s: float
    quantile: float
    goodput: float
    seed: int
    rows: int
    binary: bool
    protocol: Protocol
    connections: int
    streams: int
    timeout_s: float
    cycles: int
    max_rate_per_s: float
    allow_remote: bool
    fail_on_slo: bool
    precise: bool
    json_file: Path | None
    plot: Path | None
    home: Path | None
    url: str | None
    control_url: str | None
    api_key: str
    ca: Path | None
    output: Output


FileArgument = Annotated[
    str | None,
    typer.Argument(help="What to send, as for predict. [default: golden example, or made up]"),
]
EndpointArgument = Annotated[
    str, typer.Argument(help="Endpoint to load; with --cold a model: NAME, NAME:V or NAME@ALIAS.")
]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", min=0.01, help=f"Requests a second. [default: {RATE_PER_S:g}]"),
]
RampOption = Annotated[
    bool, typer.Option("--ramp", help="Search the highest rate that meets the objective.")
]
ColdOption = Annotated[
    bool, typer.Option("--cold", help="Time from deploying a version to its first answer.")
]
DurationOption = Annotated[
    float | None,
    duration_option("--duration", "How long to measure. [default: 10s; 3s a step of --ramp]"),
]
WarmupOption = Annotated[
    float | None,
    duration_option("--warmup", "The same load before, not counted. [default: 1s]"),
]
ArrivalsOption = Annotated[
    Arrivals, typer.Option("--arrivals", help="Gaps between requests: all the same, or random.")
]
SloOption = Annotated[
    float | None, duration_option("--slo", "Answers within this are good. [default: 100ms]")
]
QuantileOption = Annotated[
    float, typer.Option("--quantile", min=1, max=99.999, help="Percentile to be within --slo.")
]
GoodputOption = Annotated[
    float, typer.Option("--goodput", min=1, max=100, help="Percent of requests to be good.")
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Of random gaps and made-up inputs.")
]
RowsOption = Annotated[int, typer.Option("--rows", min=1, help="Rows of a made-up request.")]
BinaryOption = Annotated[bool, typer.Option("--binary", help="Send tensors as raw bytes.")]
ConnectionsOption = Annotated[
    int | None,
    typer.Option(
        "--connections",
        min=1,
        max=16384,
        help="Connections at most; REST sends one request at a time over each. "
        f"[default: {CONNECTIONS}, {GRPC_CONNECTIONS} with gRPC]",
    ),
]
ProtocolOption = Annotated[
    Protocol, typer.Option("--protocol", help="REST, or gRPC with raw tensors.")
]
StreamsOption = Annotated[
    int,
    typer.Option("--streams", min=1, max=1024, help="Calls in flight on a gRPC connection."),
]
TimeoutOption = Annotated[
    float | None, duration_option("--timeout", "Longest wait for an answer. [default: 10s]")
]
CyclesOption = Annotated[
    int, typer.Option("--cycles", min=1, max=100, help="Cold starts to measure.")
]
MaxRateOption = Annotated[
    float, typer.Option("--max-rate", min=1, help="Never offer more a second.")
]
MaxDurationOption = Annotated[
    float | None, duration_option("--max-duration", "Never take longer a step. [default: 10m]")
]
RemoteOption = Annotated[
    bool, typer.Option("--allow-remote", help="Load a server that is not this machine.")
]
FailOption = Annotated[
    bool, typer.Option("--fail-on-slo", help="Exit with 1 when the objective is not met.")
]
PreciseOption = Annotated[
    bool, typer.Option("--precise/--plain-timer", help="Send by a timer finer than 1 ms.")
]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json", help="Write the whole report there as well.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Write latency by percentile there, as SVG.")
]


def connections_of(protocol: Protocol) -> int:
    """Return how many connections are opened at most where nobody said."""
    return GRPC_CONNECTIONS if protocol is Protocol.GRPC else CONNECTIONS


def check(asked: Asked, max_duration_s: float) -> None:
    """Raise ``typer.BadParameter`` for what does not go together, and over the caps."""
    if sum((asked.rate_per_s is not None, asked.ramp, asked.cold)) > 1:
        raise typer.BadParameter("--rate, --ramp and --cold exclude each other; take one")
    if asked.cold and asked.plot is not None:
        raise typer.BadParameter("--cold has no latencies under load to draw; leave --plot out")
    if asked.cold and asked.fail_on_slo:
        raise typer.BadParameter("--cold has no objective to miss; leave --fail-on-slo out")
    if asked.cold and asked.url is not None and asked.control_url is None:
        raise typer.BadParameter("--cold with --url needs the --control-url of the same server")
    if (asked.rate_per_s or 0) > asked.max_rate_per_s:
        raise typer.BadParameter(
            f"{asked.rate_per_s:g} requests/s are over the cap of {asked.max_rate_per_s:g}; raise "
            "--max-rate if that is meant",
            param_hint="--rate",
        )
    if asked.warmup_s + asked.duration_s > max_duration_s:
        raise typer.BadParameter(
            f"--warmup and --duration are over the cap of {max_duration_s:g} s together; raise "
            "--max-duration if that is meant",
            param_hint="--duration",
        )
    for name in ("duration_s", "slo_s", "timeout_s"):
        if getattr(asked, name) <= 0:
            raise typer.BadParameter("must be above 0", param_hint=f"--{name[:-2]}")
