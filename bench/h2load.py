"""`h2load` with one thread, one body and constant metadata, and what it printed as figures."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.failure import BenchError
from bench.load import Sample
from bench.wire_http import Target

_FINISHED = re.compile(r"^finished in ([0-9.]+)(us|ms|s|m|h),", re.MULTILINE)
_REQUESTS = re.compile(
    r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed,", re.MULTILINE
)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """Connections, calls in flight on each, and how long."""

    connections: int
    streams: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What `h2load` counted; `data_bytes` is what came back in DATA frames."""

    elapsed_s: float
    succeeded: int
    failed: int
    data_bytes: int


def parse(text: str) -> Totals:
    """Read the output of `h2load`. Raises `BenchError` if figures are missing."""
    finished, requests, data = (p.search(text) for p in (_FINISHED, _REQUESTS, _DATA))
    if finished is None or requests is None or data is None:
        raise BenchError(f"h2load gave no figures:\n{text[-2000:]}")
    return Totals(
        elapsed_s=float(finished[1]) * _SECONDS[finished[2]],
        succeeded=int(requests[2]),
        failed=int(requests[3]),
        data_bytes=int(data[1]),
    )


def durations_us(log: Path) -> list[int]:
    """Read the durations of the answered requests out of the file of `--log-file`, sorted."""
    rows = (line.split("\t") for line in log.read_text().splitlines())
    return sorted(int(duration) for _, status, duration in rows if status == "200")


def sample(totals: Totals, durations: list[int], answer_bytes: int) -> Sample:
    """Return the figures of one run.

    gRPC says in a trailer that a call failed, which `h2load` does not read; such a call brings no
    message, so good ones are counted by the bytes that came. Percentiles are over all answers.
    """
    good = min(totals.succeeded, totals.data_bytes // answer_bytes)
    if not good or not durations or not totals.elapsed_s:
        raise BenchError(
            f"no gRPC call succeeded ({totals.succeeded} answers, {totals.failed} not)"
        )
    return Sample(
        requests_per_s=good / totals.elapsed_s,
        p50_us=durations[len(durations) // 2],
        p99_us=durations[int(len(durations) * 0.99)],
        errors=totals.failed + totals.succeeded - good,
    )


def measure(target: Target, body: Path, shape: Shape, answer_bytes: int) -> Sample:
    """Run `h2load` once; `answer_bytes` is the size of a right answer with its prefix."""
    log = body.with_suffix(".h2load")
    log.unlink(missing_ok=True)
    headers = {"content-type": "application/grpc", "te": "trailers", **target.headers}
    done = subprocess.run(
        [
            "h2load",
            "-t1",
            f"-c{shape.connections}",
            f"-m{shape.streams}",
            f"-D{max(1, round(shape.seconds))}",
            "-w30",
            "-W30",
            f"--log-file={log}",
            f"--data={body}",
            *(f"--header={name}: {value}" for name, value in headers.items()),
            f"http://127.0.0.1:{target.port}{target.path}",
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=shape.seconds + 60,
    )
    totals = parse(done.stdout + done.stderr)
    return sample(totals, durations_us(log), answer_bytes)
