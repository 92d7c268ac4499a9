"""Which requests are logged, and how many of them."""

import json
import subprocess
import sys
from typing import Any

TRIAL = """
from salver.core.clock import ManualClock
from salver.core.context import ANONYMOUS, RequestContext
from salver.core.exchange import Exchange
from salver.observe.faults import FaultLog
from salver.observe.logs import configure_logs

def exchange(number, code):
    context = RequestContext(f"id-{number}", ANONYMOUS, 0, 0)
    context.variant = "m:1"
    return Exchange(context, "m", "http", code, 2_500_000, None)

configure_logs("info", process="gateway-0")
clock = ManualClock()
faults = FaultLog(clock)
"""


def logged(steps: str) -> list[dict[str, Any]]:
    """Return what a process logs, each line of which must be JSON."""
    done = subprocess.run(
        [sys.executable, "-c", TRIAL + steps], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_faults_of_ours_are_logged_with_their_ids() -> None:
    """A model's failure is a line with id, endpoint and code; callers' mistakes are not."""
    first, second = logged(
        "faults([exchange(1, ''), exchange(2, 'invalid_tensor'), exchange(3, 'overloaded')])\n"
        "faults([exchange(4, 'model_failed'), exchange(5, 'worker_crashed')])\n"
    )
    assert (first["event"], first["process"]) == ("request_failed", "gateway-0")
    assert (first["request_id"], first["endpoint"], first["variant"]) == ("id-4", "m", "m:1")
    assert (first["code"], first["total_ms"]) == ("model_failed", 2.5)
    assert (second["request_id"], second["code"]) == ("id-5", "worker_crashed")


def test_a_failing_model_does_not_fill_the_log() -> None:
    """Twenty lines a second; the next second says how many were left out."""
    lines = logged(
        "faults([exchange(number, 'model_failed') for number in range(100)])\n"
        "clock.advance(1)\n"
        "faults([exchange(100, 'model_failed')])\n"
    )
    assert len(lines) == 22
    assert lines[20]["not_logged"] == 80
    assert lines[21]["request_id"] == "id-100"
