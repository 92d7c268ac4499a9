"""`salver bench`: measure an endpoint under load, or a version's cold start."""

from salver.bench.figures import Arrivals
from salver.cli import bench_options as options
from salver.cli.options import (
    CaOption,
    ControlUrlOption,
    HomeOption,
    KeyOption,
    Output,
    OutputOption,
    UrlOption,
)


def command(
    endpoint: options.EndpointArgument,
    file: options.FileArgument = None,
    rate: options.RateOption = None,
    ramp: options.RampOption = False,
    cold: options.ColdOption = False,
    duration: options.DurationOption = None,
    warmup: options.WarmupOption = None,
    arrivals: options.ArrivalsOption = Arrivals.POISSON,
    slo: options.SloOption = None,
    quantile: options.QuantileOption = 99.0,
    goodput: options.GoodputOption = 99.0,
    seed: options.SeedOption = 0,
    rows: options.RowsOption = 1,
    binary: options.BinaryOption = False,
    protocol: options.ProtocolOption = options.Protocol.REST,
    connections: options.ConnectionsOption = None,
    streams: options.StreamsOption = 64,
    timeout: options.TimeoutOption = None,
    cycles: options.CyclesOption = 5,
    max_rate: options.MaxRateOption = options.MAX_RATE_PER_S,
    max_duration: options.MaxDurationOption = None,
    allow_remote: options.RemoteOption = False,
    fail_on_slo: options.FailOption = False,
    precise: options.PreciseOption = True,
    json_file: options.JsonFileOption = None,
    plot: options.PlotOption = None,
    home: HomeOption = None,
    url: UrlOption = None,
    control_url: ControlUrlOption = None,
    api_key: KeyOption = "",
    ca: CaOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure an endpoint under load, sent at fixed times whatever becomes of the answers.

    Example: salver bench churn --rate 500 --duration 30s --slo 50ms --plot latency.svg
    """
    asked = options.Asked(
        endpoint, file, rate, ramp, cold,
        _or(duration, options.RAMP_STEP_S if ramp else options.DURATION_S),
        _or(warmup, options.WARMUP_S), arrivals, _or(slo, options.SLO_S),
        quantile / 100, goodput / 100, seed, rows, binary, protocol,
        connections or options.connections_of(protocol), streams,
        _or(timeout, options.TIMEOUT_S), cycles, max_rate, allow_remote, fail_on_slo, precise,
        json_file, plot, home, url, control_url, api_key, ca, output,
    )  # fmt: skip
    options.check(asked, _or(max_duration, options.MAX_DURATION_S))
    # Other commands shall not pay for the load generator.
    from salver.cli import bench_run  # noqa: PLC0415

    bench_run.run(asked)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
