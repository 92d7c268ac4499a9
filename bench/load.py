"""The load generator: `wrk`, one thread, one body, kept-alive connections."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.failure import BenchError
from bench.wire_http import Target

SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
%s
local file = io.open("%s", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n@{"requests":%%d,"duration_us":%%d,"p50_us":%%d,"p99_us":%%d,"errors":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk; `errors` counts refused, failed and timed-out requests."""

    requests_per_s: float
    p50_us: float
    p99_us: float
    errors: int


def write_script(folder: Path, target: Target, body: bytes) -> Path:
    """Write the body and the Lua script that sends it."""
    body_file = folder / "body.json"
    body_file.write_bytes(body)
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}"
        for name, value in target.headers.items()
    )
    script = folder / "load.lua"
    script.write_text(SCRIPT % (headers, body_file))
    return script


def measure(target: Target, script: Path, connections: int, seconds: float) -> Sample:
    """Run wrk once. Raises `BenchError` if nothing was answered."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    url = f"http://127.0.0.1:{target.port}{target.path}"
    done = subprocess.run(
        [*command, "-s", str(script), url],
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    line = next((text for text in done.stdout.splitlines() if text.startswith("@")), None)
    if line is None:
        raise BenchError(f"wrk gave no figures:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    figures = json.loads(line[1:])
    if not figures["requests"]:
        raise BenchError(f"wrk got no answer ({figures['errors']} errors) from {url}")
    return Sample(
        requests_per_s=figures["requests"] / figures["duration_us"] * 1e6,
        p50_us=figures["p50_us"],
        p99_us=figures["p99_us"],
        errors=figures["errors"],
    )
