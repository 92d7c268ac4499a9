"""`salver bench` against a running server, as a person and as a program use it."""

import json
import os
import signal
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from salver.bench.figures import Limit, Report
from tests import models
from tests.e2e.load_report import report
from tests.e2e.server import SALVER, Server, run, wait_until, write_rows

QUICK = ("--rate", "60", "--duration", "500ms", "--warmup", "100ms", "--slo", "60s")
LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def deployed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Give a server with the endpoint ``scaled``, which has a golden example."""
    server.deploy_scaled(tmp_path_factory.mktemp("rows"))
    return server


def test_a_fixed_rate(deployed: Server) -> None:
    """Every request is sent and answered, with the golden example, and the figures agree."""
    found = report(deployed, "scaled", *QUICK, "--arrivals", "constant")
    (step,) = found.steps
    assert found.requests.source == "golden example of scaled:1"
    assert (found.kind, found.interrupted, found.settings.arrivals) == ("rate", False, "constant")
    assert step.errors == {}
    assert step.requests.due == step.requests.sent == step.requests.ok == step.requests.good == 30
    assert (step.rates.offered, step.objective_share, step.met) == (60.0, 1.0, True)
    latency, service = step.latency_us, step.service_us
    assert latency is not None
    assert service is not None
    assert 0 < latency.p50 <= latency.p90 <= latency.p95 <= latency.p99 <= latency.p99_9
    assert latency.p99_9 <= latency.max
    assert service.max <= latency.max
    assert step.bytes_sent > 30 * found.requests.mean_bytes
    assert step.bytes_received > 0
    assert step.generator.cpu_share > 0


def test_requests_from_a_file_from_stdin_and_made_up(deployed: Server, tmp_path: Path) -> None:
    """Rows, an OIP body, and inputs made up from the metadata are all answered, as JSON and raw."""
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0], [3.0, 4.0]])
    found = report(deployed, "scaled", str(rows), *QUICK, "--binary")
    assert (found.requests.source, found.requests.format) == (f"file {rows}", "binary")
    assert found.met
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    body = json.dumps({"inputs": [tensor]}).encode()
    found = report(deployed, "scaled", "-", *QUICK, stdin=body)
    assert found.requests.mean_bytes == len(body)
    assert found.met
    found = report(deployed, "scaled", *QUICK, "--rows", "3", "--url", deployed.state()["http_url"])
    assert found.requests.source == "made up from the signature, 3 rows each"
    assert found.requests.distinct == 64
    assert found.met


def test_a_ramp_writes_a_report_and_a_picture(deployed: Server, tmp_path: Path) -> None:
    """A capacity up to the cap is named as a lower bound; files hold the report and the curves."""
    file, plot = tmp_path / "report.json", tmp_path / "latency.svg"
    printed = deployed.ok(
        "bench", "scaled", "--ramp", "--max-rate", "150", "--duration", "300ms", "--warmup", "0",
        "--slo", "60s", "--json", str(file), "--plot", str(plot), "--fail-on-slo",
    )  # fmt: skip
    found = msgspec.json.decode(file.read_bytes(), type=Report)
    assert found.capacity is not None
    assert (found.capacity.rate_per_s, found.capacity.limit) == (150, Limit.MAX_RATE)
    assert [step.rates.target for step in found.steps] == [100, 150]
    lines = list(ET.fromstring(plot.read_text()).iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 2
    assert len([line for line in printed.splitlines() if line.endswith(" met")]) == 2
    assert "capacity 150/s at p99 ≤ 60000 ms (at least: that is the cap" in printed


def test_an_objective_that_is_not_met(deployed: Server) -> None:
    """It is said in words; only with --fail-on-slo it is the exit code."""
    impossible = ("bench", "scaled", *QUICK[:-1], "1us")
    printed = deployed.ok(*impossible)
    assert "objective not met: goodput 0.00 % is below 99 %" in printed
    done = deployed.salver(*impossible, "--fail-on-slo", "-o", "json")
    assert done.returncode == 1
    step = msgspec.json.decode(done.stdout, type=Report).steps[0]
    assert (step.requests.good, step.met) == (0, False)
    assert step.requests.ok > 0


def test_refusals_are_no_goodput(deployed: Server, tmp_path: Path) -> None:
    """What a full queue refuses is counted by its code and is not good, however quick it was."""
    rows = write_rows(tmp_path / "rows.json", [[1.0]])
    deployed.push(models.onnx_slow(2, 10), "narrow", "--example", str(rows))
    deployed.ok("deploy", "narrow", "--max-queue", "1", "--max-batch-size", "1")
    found = report(deployed, "narrow", "--rate", "200", "--duration", "1s", "--slo", "60s")
    (step,) = found.steps
    refused = step.errors["503 overloaded"]
    assert refused > 0
    assert step.requests.good == step.requests.ok == step.requests.due - sum(step.errors.values())
    assert step.objective_share == step.requests.good / step.requests.due
    assert step.refusal_us is not None
    assert not step.met


def test_an_interruption_prints_what_there_is(deployed: Server, tmp_path: Path) -> None:
    """Ctrl-C ends the load at once; the report says so, and the exit code is 130."""
    before = deployed.gateway_metric("salver_requests_total", endpoint="scaled") or 0.0
    words = ["bench", "scaled", "--rate", "50", "--duration", "5m", "--warmup", "0", "-o", "json"]
    process = subprocess.Popen(
        [str(SALVER), *words, "--home", str(deployed.home)], stdout=subprocess.PIPE
    )
    try:
        wait_until(
            lambda: (
                (deployed.gateway_metric("salver_requests_total", endpoint="scaled") or 0.0)
                > before + 20
            ),
            "load arrives",
        )
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    found = msgspec.json.decode(printed, type=Report)
    assert found.interrupted
    assert 0 < found.steps[0].requests.ok < 5 * 60 * 50


def test_cold_starts_disturb_nothing(deployed: Server, tmp_path: Path) -> None:
    """A version nobody serves is started and removed again; one that is loaded is refused."""
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    deployed.push(models.onnx_identity("FP32", 7), "sleeping", "--example", str(rows))
    endpoints = deployed.json("get", "endpoints")
    found = report(deployed, "sleeping", "--cold", "--cycles", "2")
    assert found.cold is not None
    assert found.cold.version == "sleeping:1"
    assert len(found.cold.cycles) == 2
    for cycle in found.cold.cycles:
        assert 0 < cycle.accepted_ms <= cycle.answered_ms <= found.cold.max_ms
    assert [item["name"] for item in deployed.json("get", "endpoints")] == [
        item["name"] for item in endpoints
    ]
    done = deployed.salver("bench", "scaled", "--cold")
    assert done.returncode == 1
    assert b"[conflict]" in done.stderr
    assert b"shared-0" in done.stderr


REFUSED = {
    ("no-such-endpoint",): b"[endpoint_not_found]",
    ("scaled", "/nonexistent.json"): b"[invalid_example]",
    ("scaled", "--url", "http://192.0.2.1:8080"): b"--allow-remote",
    ("scaled", "--cold", "--control-url", "http://192.0.2.1:8090"): b"--allow-remote",
    ("scaled", "--json", "/nonexistent/report.json"): b"cannot be written",
    ("no-such-model", "--cold"): b"[model_not_found]",
    ("scaled:9", "--cold"): b"[version_not_found]",
    ("scaled@nobody", "--cold"): b"[alias_not_found]",
    ("scaled", "--duration", "10m", "--max-duration", "1h", "--rate", "20000"): b"--duration",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_refusals_are_one_coded_line(deployed: Server, words: tuple[str, ...]) -> None:
    """What cannot be done exits with 1, before any load, and names cause and fix in one line."""
    done = deployed.salver("bench", *words)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert REFUSED[words] in done.stderr


def test_a_request_that_the_model_refuses_is_told_before_the_load(deployed: Server) -> None:
    """The server's own words come back for the first request, and no second is sent."""
    tensor = {"name": "nonsense", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    body = json.dumps({"inputs": [tensor]}).encode()
    done = deployed.salver("bench", "scaled", "-", stdin=body)
    assert done.returncode == 1
    assert b"[unknown_input]" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--rate", "5", "--ramp"),
        ("--cold", "--ramp"),
        ("--cold", "--plot", "x.svg"),
        ("--cold", "--url", LOCAL),
        ("--rate", "30000"),
        ("--rate", "0"),
        ("--duration", "1h"),
        ("--duration", "soon"),
        ("--duration", "0"),
        ("--slo", "-5s"),
        ("--quantile", "100"),
        ("--connections", "100000"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(words: tuple[str, ...]) -> None:
    """What does not go together, is over a cap or is no duration is refused without a server."""
    assert run("bench", "churn", *words).returncode == 2


def test_the_help_shows_every_option_and_an_example() -> None:
    """--help has the example, and the command stands in the list of all commands."""
    printed = run("bench", "--help").stdout.decode()
    assert "Example: salver bench churn --rate 500" in " ".join(printed.split())
    for option in ("--ramp", "--cold", "--slo", "--plot", "--allow-remote", "--fail-on-slo"):
        assert option in printed
    assert "bench" in run("--help").stdout.decode()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("salver be", "bench"),
        ("salver bench --ram", "--ramp"),
        ("salver bench --arrivals p", "poisson"),
    ],
)
def test_a_shell_completes_it(words: str, expected: str) -> None:
    """The command, its options and their values are completed."""
    count = str(len(words.split()) - 1)
    asked = {"_SALVER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    done = subprocess.run(
        [str(SALVER)], env={**os.environ, **asked}, capture_output=True, check=True, timeout=60
    )
    assert done.stdout.split() == [expected.encode()]
