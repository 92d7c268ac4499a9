"""Before anything is measured: every server gives ONNX Runtime's own answer to the same bodies."""

from __future__ import annotations

import json
import math
from typing import Any

from bench.failure import BenchError
from bench.servers.base import Server
from bench.wire_http import Connection
from bench.workspace import Case

TOLERANCE = 1e-5


def check_answers(server: Server, cases: list[Case]) -> None:
    """Send every case; raise `BenchError` at the first wrong answer."""
    connection = Connection(server.tabular(), timeout_s=10.0, answer_limit=1 << 16)
    try:
        for number, case in enumerate(cases):
            answer = connection.post(case.body, {"Content-Type": "application/json"})
            text = bytes(answer.body)
            if answer.status != 200:
                raise BenchError(f"{server.name} answered {answer.status}: {text[:500]!r}")
            answer_outputs = {o["name"]: o["data"] for o in json.loads(text)["outputs"]}
            wrong = difference(answer_outputs, case.outputs)
            if wrong:
                raise BenchError(f"{server.name}, case {number}: {wrong}")
    finally:
        connection.close()


def difference(outputs: dict[str, Any], expected: dict[str, list[float]]) -> str:
    """Say what differs, or return an empty string; shapes may differ by a unit axis."""
    for name, values in expected.items():
        got = outputs.get(name, [])
        close = len(got) == len(values) and all(
            math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
            for a, b in zip(got, values, strict=True)
        )
        if not close:
            return f"{name} is {got}, ONNX Runtime says {values}"
    return ""
