"""What a person sees of a benchmark: a progress bar, a line for each step, the result."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from salver.bench.figures import Capacity, Cold, Cycle, Latency, Limit, Report, Step
from salver.cli.options import Output
from salver.cli.output import interactive, say

_HEAD = (
    "offered/s", "good/s", "good", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "lag p99 ms", "cpu",
    "unsent", "failed", "objective",
)  # fmt: skip
_WIDTHS = (9, 9, 8, 8, 8, 8, 8, 10, 5, 7, 7, 9)
_MOST_ERRORS = 5
_TICKS_TO_DRAWING = 5
_WHOLE_FROM_MS = 100

_LIMITS = {
    Limit.SERVER: "",
    Limit.GENERATOR: "at least: above it this generator was too slow to tell; "
    "use a machine of its own for it",
    Limit.MAX_RATE: "at least: that is the cap; raise --max-rate or, where a step has too many "
    "requests, take a shorter --duration",
    Limit.STEPS: "at least: the search ran out of steps",
    Limit.INTERRUPTED: "at least: interrupted",
}


class View:
    """An observer of a session; a context manager, which owns the progress bar."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            # A thread that draws would hold up the one that sends.
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not interactive(),
        )
        self._task = self._progress.add_task("connecting", total=1)
        self._headed = False
        self._ticks = 0

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wipe the bar away."""
        self._progress.stop()

    def begins(self, rate_per_s: float, requests: int) -> None:
        """Show a new step."""
        self._progress.reset(self._task, total=requests)
        self._progress.update(self._task, description=f"{rate_per_s:,.0f} requests/s")

    def goes_on(self, due: int, ended: int) -> None:
        """Move the bar."""
        del ended
        self._ticks += 1
        drawn = self._ticks % _TICKS_TO_DRAWING == 0
        self._progress.update(self._task, completed=due, refresh=drawn)

    def ends(self, step: Step) -> None:
        """Print a step's line."""
        if not self._headed:
            self._headed = True
            self._print(_columns(_HEAD))
        self._print(step_line(step))

    def told(self, cycle: Cycle) -> None:
        """Print a cold start's line."""
        self._print(f"first answer {cycle.answered_ms:.0f} ms after the deploy call")

    def _print(self, line: str) -> None:
        """Print above the bar, which is on another stream."""
        self._progress.stop()
        say(line, self._output)
        self._progress.start()


def step_line(step: Step) -> str:
    """Return a step as one line of the table."""
    latency, lag = step.latency_us, step.generator.lag_us
    found = (
        f"{step.rates.offered:,.0f}",
        f"{step.rates.good:,.0f}",
        f"{100 * step.objective_share:.2f} %",
        *(_ms(value) for value in _shown(latency)),
        _ms(None if lag is None else lag.p99),
        f"{100 * step.generator.cpu_share:.0f} %",
        str(step.requests.not_sent),
        str(step.requests.failed - step.requests.not_sent),
        "met" if step.met else "not met",
    )
    return _columns(found)


def _shown(latency: Latency | None) -> tuple[float | None, ...]:
    if latency is None:
        return (None,) * 4
    return latency.p50, latency.p99, latency.p99_9, latency.max


def _ms(value_us: float | None) -> str:
    if value_us is None:
        return "-"
    value_ms = value_us / 1e3
    return f"{value_ms:.3g}" if value_ms < _WHOLE_FROM_MS else f"{value_ms:,.0f}"


def show(report: Report) -> None:
    """Print what follows the lines: what went wrong, the capacity, whether to believe it."""
    objective = f"p{report.settings.quantile:g} ≤ {report.settings.slo_ms:g} ms"
    sent = report.requests
    different = f"{sent.distinct} different, {sent.mean_bytes:,.0f} bytes"
    say(f"sent: {sent.source} ({sent.format}, {different})")
    for step in report.steps if report.capacity is None else ():
        _show_step(step)
    if report.capacity is not None:
        say(_capacity(report.capacity, objective, report.settings.goodput))
    if report.cold is not None:
        say(_cold(report.cold))
    if report.interrupted:
        say("interrupted: this is what was measured so far")


def _show_step(step: Step) -> None:
    for name, count in list(step.errors.items())[:_MOST_ERRORS]:
        say(f"{count:,} × {name}")
    for reason in step.unmet:
        say(f"objective not met: {reason}")
    if step.requests.not_sent and "not_sent_no_connection" in step.errors:
        say("requests found no free connection; raise --connections if the server can take more")
    if step.generator.bottleneck:
        say(
            f"the generator was the bottleneck ({step.generator.reason}): these figures are of "
            "this machine as a whole, not of the server; lower the rate or run it elsewhere"
        )


def _capacity(capacity: Capacity, objective: str, goodput: float) -> str:
    if not capacity.rate_per_s:
        return f"capacity: none of the rates had {objective} and {goodput:g} % good answers"
    remark = _LIMITS[capacity.limit]
    text = f"capacity {capacity.rate_per_s:,.0f}/s at {objective}"
    return f"{text} ({remark})" if remark else text


def _cold(cold: Cold) -> str:
    count = len(cold.cycles)
    return (
        f"cold start of {cold.version}: median {cold.median_ms:.0f} ms, slowest {cold.max_ms:.0f} "
        f"ms of {count}; the first was {cold.cycles[0].answered_ms:.0f} ms"
    )


def _columns(cells: tuple[str, ...]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()
