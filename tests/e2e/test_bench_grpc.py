"""`salver bench --protocol grpc` against a running server, as a person and as a program use it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest

from salver.bench.asking import Asker
from salver.bench.figures import Limit, Report
from salver.bench.message import inputs_of
from salver.bench.target import find_target
from salver.core.errors import EndpointNotFound, InvalidTensor, Unauthenticated, UnknownInput
from salver.core.tensor import AnyArray, Tensor
from tests import models
from tests.certificates import Authority
from tests.e2e.load_report import report
from tests.e2e.server import Server, write_rows
from tests.e2e.test_keys import Guarded

GRPC = ("--protocol", "grpc")
QUICK = (*GRPC, "--rate", "60", "--duration", "500ms", "--warmup", "100ms", "--slo", "60s")
ROWS = np.array([[4.0]], np.float32)


@pytest.fixture(scope="module")
def deployed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Give a server with the endpoint ``scaled``, which has a golden example."""
    server.deploy_scaled(tmp_path_factory.mktemp("rows"))
    return server


def test_a_fixed_rate(deployed: Server) -> None:
    """Every call is sent and answered by the model, which the server counts."""
    counted = {"endpoint": "scaled", "code": "ok"}
    before = deployed.gateway_metric("salver_requests_total", **counted) or 0.0
    found = report(deployed, "scaled", *QUICK, "--arrivals", "constant")
    (step,) = found.steps
    assert found.requests.source == "golden example of scaled:1"
    assert (found.requests.format, found.settings.connections, found.settings.streams) == (
        "grpc", 16, 64,
    )  # fmt: skip
    assert step.errors == {}
    assert step.requests.due == step.requests.sent == step.requests.ok == step.requests.good == 30
    assert (step.rates.offered, step.objective_share, step.met) == (60.0, 1.0, True)
    latency, service = step.latency_us, step.service_us
    assert latency is not None
    assert service is not None
    assert 0 < latency.p50 <= latency.p99 <= latency.p99_9 <= latency.max
    assert service.max <= latency.max
    assert step.bytes_sent > 30 * found.requests.mean_bytes
    assert step.bytes_received > 0
    assert step.generator.cpu_share > 0
    after = deployed.gateway_metric("salver_requests_total", **counted) or 0.0
    # The warm-up and the one call before it are answered, too.
    assert after - before >= 31


def test_requests_from_a_file_from_stdin_and_made_up(deployed: Server, tmp_path: Path) -> None:
    """Rows, an OIP body, and inputs made up from the metadata are all answered; also on 8081."""
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0], [3.0, 4.0]])
    found = report(deployed, "scaled", str(rows), *QUICK)
    assert (found.requests.source, found.met) == (f"file {rows}", True)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    body = json.dumps({"inputs": [tensor]}).encode()
    found = report(deployed, "scaled", "-", *QUICK, stdin=body)
    expected = inputs_of([Tensor.from_array("x", np.ones((1, 1), np.float32))])
    assert (found.requests.mean_bytes, found.met) == (len(expected), True)
    customary = f"http://{deployed.grpc_target}"
    found = report(deployed, "scaled", *QUICK, "--rows", "3", "--url", customary)
    assert found.requests.source == "made up from the signature, 3 rows each"
    assert (found.requests.distinct, found.met) == (64, True)


def test_a_large_tensor(deployed: Server, tmp_path: Path) -> None:
    """Messages over every window and frame arrive whole and are answered."""
    rows = write_rows(tmp_path / "rows.json", [[1.0] * 300] * 300)
    found = report(deployed, "scaled", str(rows), *QUICK, "--connections", "2")
    assert found.requests.mean_bytes > 300 * 300 * 4
    assert (found.steps[0].errors, found.met) == ({}, True)
    assert found.steps[0].bytes_received > 300 * 300 * 4 * found.steps[0].requests.ok


def test_a_ramp_writes_a_report_and_a_picture(deployed: Server, tmp_path: Path) -> None:
    """A capacity up to the cap is named as a lower bound; files hold the report and the curves."""
    file, plot = tmp_path / "report.json", tmp_path / "latency.svg"
    printed = deployed.ok(
        "bench", "scaled", *GRPC, "--ramp", "--max-rate", "150", "--duration", "300ms", "--warmup",
        "0", "--slo", "60s", "--json", str(file), "--plot", str(plot), "--fail-on-slo",
    )  # fmt: skip
    found = msgspec.json.decode(file.read_bytes(), type=Report)
    assert found.capacity is not None
    assert (found.capacity.rate_per_s, found.capacity.limit) == (150, Limit.MAX_RATE)
    lines = list(ET.fromstring(plot.read_text()).iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == len(found.steps) == 2
    assert "(grpc, 1 different" in printed


def test_refusals_are_no_goodput(deployed: Server, tmp_path: Path) -> None:
    """What a full queue refuses is counted by gRPC's status and Salver's code, and is not good."""
    rows = write_rows(tmp_path / "rows.json", [[1.0]])
    deployed.push(models.onnx_slow(2, 10), "narrow", "--example", str(rows))
    deployed.ok("deploy", "narrow", "--max-queue", "1", "--max-batch-size", "1")
    found = report(deployed, "narrow", *GRPC, "--rate", "200", "--duration", "1s", "--slo", "60s")
    (step,) = found.steps
    assert step.errors["UNAVAILABLE overloaded"] > 0
    assert step.requests.good == step.requests.ok == step.requests.due - sum(step.errors.values())
    assert step.refusal_us is not None
    assert not step.met


def test_what_comes_after_the_deadline_is_refused_by_the_server(
    deployed: Server, tmp_path: Path
) -> None:
    """The deadline travels: a queue that is longer than the patience ends in the server's code."""
    rows = write_rows(tmp_path / "rows.json", [[1.0]])
    deployed.push(models.onnx_slow(2, 10), "slow", "--example", str(rows))
    deployed.ok("deploy", "slow", "--max-batch-size", "1")
    found = report(
        deployed, "slow", *GRPC, "--rate", "300", "--duration", "2s", "--timeout", "500ms"
    )
    assert found.steps[0].errors["DEADLINE_EXCEEDED deadline_exceeded"] > 0


def test_cold_starts_are_asked_over_grpc(deployed: Server, tmp_path: Path) -> None:
    """A version nobody serves is started and removed again, and its first answer is gRPC's."""
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    deployed.push(models.onnx_identity("FP32", 7), "sleeping", "--example", str(rows))
    endpoints = deployed.json("get", "endpoints")
    found = report(deployed, "sleeping", *GRPC, "--cold", "--cycles", "2")
    assert found.cold is not None
    assert (len(found.cold.cycles), found.requests.format) == (2, "grpc")
    for cycle in found.cold.cycles:
        assert 0 < cycle.accepted_ms <= cycle.answered_ms <= found.cold.max_ms
    assert [item["name"] for item in deployed.json("get", "endpoints")] == [
        item["name"] for item in endpoints
    ]


def test_tls(tmp_path: Path) -> None:
    """Where the data port speaks TLS, so does the generator, and trusts whom it is told to."""
    authority = Authority(tmp_path)
    own = authority.issue("own")
    files = ("--tls-cert", str(own.certificate), "--tls-key", str(own.key))
    with Server(tmp_path / "home", *files) as server:
        server.deploy_scaled(tmp_path)
        found = report(server, "scaled", *QUICK, "--ca", str(authority.file))
        assert found.url.startswith("https://")
        assert (found.steps[0].errors, found.met) == ({}, True)
        done = server.salver("bench", "scaled", *QUICK)
        assert done.returncode == 1
        assert b"--ca" in done.stderr


def test_keys(tmp_path: Path) -> None:
    """A key travels with every call; without a known one the first call is refused by name."""
    guarded = Guarded(tmp_path)
    with guarded.server as server:
        server.deploy_scaled(tmp_path)
        found = report(server, "scaled", *QUICK, "--api-key", guarded.key)
        assert (found.steps[0].errors, found.met) == ({}, True)
        done = server.salver("bench", "scaled", *QUICK, "--api-key", "guess")
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert b"[unauthenticated]" in done.stderr
        # The command asks for the metadata first, so what a call itself is told is seen here.
        target = find_target(f"http://127.0.0.1:{server.port}")
        with Asker(target, "guess", 60.0) as asker:
            refused = asker.ask("scaled", inputs_of([Tensor.from_array("x", ROWS)]))
        assert isinstance(refused, Unauthenticated)


@pytest.mark.parametrize(
    ("endpoint", "name", "array", "expected"),
    [
        ("nowhere", "x", ROWS, EndpointNotFound),
        ("scaled", "nonsense", ROWS, UnknownInput),
        ("scaled", "x", np.ones((1, 2, 3), np.float32), InvalidTensor),
        ("scaled", "x", np.ones((1, 1), np.int64), InvalidTensor),
    ],
)
def test_a_call_that_is_refused_says_why(
    deployed: Server, endpoint: str, name: str, array: AnyArray, expected: type[Exception]
) -> None:
    """Unknown endpoint, unknown input, wrong shape and wrong datatype have the server's codes."""
    with Asker(find_target(f"http://{deployed.grpc_target}"), "", 60.0) as asker:
        refused = asker.ask(endpoint, inputs_of([Tensor.from_array(name, array)]))
        assert type(refused) is expected
        assert refused.message
        assert asker.ask("scaled", inputs_of([Tensor.from_array("x", ROWS)])) is None


class RestAlone(BaseHTTPRequestHandler):
    """Tells of a model over HTTP/1.1 and knows nothing else."""

    def do_GET(self) -> None:
        """Answer with the metadata."""
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 1]}
        body = json.dumps({"name": "scaled", "inputs": [tensor], "outputs": [tensor]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def rest_alone() -> Iterator[str]:
    """Give the address of a server without gRPC."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), RestAlone)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_without_grpc_is_told_with_the_fix(deployed: Server, rest_alone: str) -> None:
    """One coded line names what to take instead, before any load."""
    done = deployed.salver("bench", "scaled", *QUICK, "--url", rest_alone)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
    assert b"does not speak gRPC" in done.stderr
    assert b"--protocol rest" in done.stderr
    assert b"[unsupported_operation]" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("no-such-endpoint", *QUICK), b"[endpoint_not_found]"),
        (("scaled", *QUICK, "--url", "http://192.0.2.1:8080"), b"--allow-remote"),
        (("scaled", *QUICK, "--url", "http://127.0.0.1:8080/base"), b"gRPC has no paths"),
        (("scaled", *QUICK, "--api-key", "k" * 9000), b"[invalid_settings]"),
    ],
    ids=["endpoint", "remote", "path", "key"],
)
def test_refusals_are_one_coded_line(deployed: Server, words: tuple[str, ...], text: bytes) -> None:
    """What cannot be done exits with 1, before any load, and names cause and fix in one line."""
    done = deployed.salver("bench", *words)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
    assert text in done.stderr
