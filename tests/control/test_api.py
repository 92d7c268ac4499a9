"""The control API of a running server: who may, what is refused, what is written down."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import models
from tests.e2e.server import Server, wait_until, write_rows


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a running server."""
    with Server(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    """Give an HTTP client with the token."""
    token = (server.home / "control.token").read_text()
    with httpx.Client(
        base_url=server.state()["control_url"],
        headers={"authorization": f"Bearer {token}"},
        timeout=60,
    ) as client:
        yield client


def code(response: httpx.Response) -> str:
    """Return the code of an error, which must be complete."""
    document = response.json()
    assert set(document) == {"error", "code", "request_id"}
    return str(document["code"])


def test_the_token_is_needed(server: Server) -> None:
    """Without the token, or with another, everything but metrics and health is 401."""
    url = server.state()["control_url"]
    for headers in ({}, {"authorization": "Bearer wrong"}):
        for method, path in (
            ("GET", "/api/v1/status"),
            ("PUT", "/api/v1/endpoints/x"),
            ("GET", "/api/v1/openapi.json"),
            ("GET", "/nowhere"),
            ("POST", "/metrics"),
        ):
            response = httpx.request(method, url + path, headers=headers)
            assert (response.status_code, code(response)) == (401, "unauthenticated")
    assert httpx.get(url + "/healthz").json() == {"ok": True}
    assert httpx.get(url + "/metrics").status_code == 200


def test_the_token_file_is_private(server: Server) -> None:
    """Only its owner can read it."""
    assert (server.home / "control.token").stat().st_mode & 0o077 == 0


def test_web_pages_are_kept_out(api: httpx.Client) -> None:
    """Another Host or Origin is refused even with the token (DNS rebinding)."""
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        response = api.get("/api/v1/status", headers=headers)
        assert (response.status_code, code(response)) == (403, "forbidden")


def test_errors_are_coded(api: httpx.Client) -> None:
    """Unknown paths, methods, fields and values have the one error shape."""
    cases = [
        (api.get("/api/v1/nowhere"), 404, "route_not_found"),
        (api.patch("/api/v1/models"), 405, "method_not_allowed"),
        (api.get("/api/v1/models/none"), 404, "model_not_found"),
        (api.get("/api/v1/models/..%2f..%2fetc"), 404, "route_not_found"),
        (api.get("/api/v1/endpoints/none"), 404, "endpoint_not_found"),
        (api.put("/api/v1/endpoints/x", json={"model": "m", "extra": 1}), 400, "invalid_request"),
        (
            api.put("/api/v1/endpoints/x", json={"model": "m", "max_replicas": 2, "replicas": 3}),
            400,
            "invalid_request",
        ),
        (
            api.put("/api/v1/endpoints/x", json={"model": "m", "max_replicas": 1, "scale_on": "x"}),
            400,
            "invalid_request",
        ),
        (
            api.put("/api/v1/endpoints/x", json={"model": "m", "max_replicas": 64, "replicas": 40}),
            507,
            "worker_limit",
        ),
        (
            api.put("/api/v1/endpoints/x", json={"model": "m", "replicas": 0}),
            400,
            "invalid_request",
        ),
        (api.put("/api/v1/endpoints/x", content=b"{"), 400, "invalid_request"),
        (api.put("/api/v1/endpoints/.x", json={"model": "m"}), 400, "invalid_name"),
        (api.put("/api/v1/endpoints/x", json={"model": "m:x"}), 400, "invalid_name"),
        (api.put("/api/v1/blobs/xyz", content=b"a"), 400, "invalid_name"),
        (api.post("/api/v1/models/m/versions", json={"files": []}), 422, "invalid_artifact"),
    ]
    for response, status, expected in cases:
        assert (response.status_code, code(response)) == (status, expected)


def test_blobs_are_verified(api: httpx.Client) -> None:
    """Bytes with another digest than announced are refused and not stored."""
    sha256 = hashlib.sha256(b"right").hexdigest()
    response = api.put(f"/api/v1/blobs/{sha256}", content=b"wrong")
    assert code(response) == "digest_mismatch"
    assert api.head(f"/api/v1/blobs/{sha256}").status_code == 404
    assert api.put(f"/api/v1/blobs/{sha256}", content=b"right").json()["size_bytes"] == 5
    assert api.head(f"/api/v1/blobs/{sha256}").status_code == 200


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/passwd", "a//b", "a/./b", "a\\b", "", "a\0b", "x" * 300]
)
def test_file_paths_cannot_leave_the_artifact(api: httpx.Client, path: str) -> None:
    """Whatever a client claims a file is called, it stays inside."""
    sha256 = hashlib.sha256(b"right").hexdigest()
    api.put(f"/api/v1/blobs/{sha256}", content=b"right")
    files = [{"path": path, "sha256": sha256, "size_bytes": 5}]
    response = api.post("/api/v1/models/m/versions", json={"files": files})
    assert code(response) == "invalid_artifact"


def test_files_that_were_not_uploaded_are_named(api: httpx.Client) -> None:
    """A version of missing or mismatched bytes is refused."""
    files = [{"path": "m.onnx", "sha256": "0" * 64, "size_bytes": 5}]
    response = api.post("/api/v1/models/m/versions", json={"files": files})
    assert code(response) == "digest_mismatch"


def test_steps_with_numbers_that_no_message_carries_are_refused(api: httpx.Client) -> None:
    """JSON carries whole numbers of any size, what the server makes of it does not."""
    steps = {"before": [{"step": "one_hot", "columns": {"x": [2**70]}}]}
    response = api.post("/api/v1/models/m/versions", json={"files": [], "steps": steps})
    assert code(response) == "invalid_steps"


def test_changes_are_written_down(server: Server, api: httpx.Client, tmp_path: Path) -> None:
    """Pushes, aliases, deploys and undeploys are in the audit log, newest first."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    server.push(models.onnx_identity("FP32", 2), "audited", "--example", str(example))
    server.ok("alias", "audited@a", "1")
    server.ok("deploy", "audited")
    server.ok("undeploy", "audited")
    actions = [(e["action"], e["subject"]) for e in api.get("/api/v1/events").json()[:4]]
    assert actions == [
        ("undeploy", "audited"),
        ("deploy", "audited"),
        ("alias", "audited@a"),
        ("push", "audited:1"),
    ]
    manifest = api.get("/api/v1/models/audited/versions/1").json()
    assert manifest["provenance"]["onnxruntime"]
    assert manifest["golden"]


def test_golden_examples_can_be_read_back(
    server: Server, api: httpx.Client, tmp_path: Path
) -> None:
    """What push wrote down of an example is given out; one that is not finite leaves none: 404."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0], [3.0, 4.0]])
    server.push(models.onnx_identity("FP32", 5), "exemplary", "--example", str(example))
    response = api.get("/api/v1/models/exemplary/versions/1/golden")
    assert response.headers["content-type"] == "application/x-ndjson"
    (line,) = response.text.splitlines()
    assert json.loads(line)["outputs"][0]["data"] == [5.0, 10.0, 15.0, 20.0]
    assert code(api.get("/api/v1/models/exemplary/versions/2/golden")) == "version_not_found"
    without = write_rows(tmp_path / "nothing.json", [[None, 2.0]])
    server.push(models.onnx_identity("FP32", 5), "unexemplary", "--example", str(without))
    response = api.get("/api/v1/models/unexemplary/versions/1/golden")
    assert (response.status_code, code(response)) == (404, "not_found")


CENTRED = """
class Model:
    def predict(self, inputs):
        x = inputs["input"]
        return {"y": x - x.mean(axis=0)}
"""


def test_batches_stay_as_they_were_found(server: Server, tmp_path: Path) -> None:
    """Another example may show that rows depend on each other; an old version is told of it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.py").write_text(CENTRED)
    same, unlike = (write_rows(tmp_path / f"{n}.json", [[1.0], [n]]) for n in (1.0, 3.0))
    command = ("push", str(model), "--name", "centred", "--trust-code", "--example")
    first = server.json(*command, str(same))
    again = server.json(*command, str(same))
    assert (first["warnings"], again["warnings"]) == ([], [])
    other = server.json(*command, str(unlike))
    assert (first["existing"], other["existing"]) == (False, True)
    assert "batching is off" in other["warnings"][0]
    told = [one for one in other["warnings"] if "rows stay as they were found" in one]
    assert len(told) == 1
    assert "centred:1" in told[0]
    assert "up to 64 rows" in told[0]


def test_golden_examples_stay_those_of_then(
    server: Server, api: httpx.Client, tmp_path: Path
) -> None:
    """Others are met at the push and not kept, which it says; the same ones need no word."""
    model, files = str(models.onnx_identity("FP32", 7)), []
    for number in (1.0, 2.0):
        rows = write_rows(tmp_path / "rows.json", [[number, number]])
        name = f"source-{number:g}"
        server.push(Path(model), name, "--example", str(rows))
        files.append(tmp_path / name)
        files[-1].write_bytes(api.get(f"/api/v1/models/{name}/versions/1/golden").content)
    command = ("push", model, "--name", "lasting", "--golden")
    done = [server.json(*command, str(file)) for file in (files[0], files[0], files[1])]
    assert [one["existing"] for one in done] == [False, True, True]
    told = [[w for w in one["warnings"] if "stay those of then" in w] for one in done]
    assert [len(one) for one in told] == [0, 0, 1]
    assert "lasting:1" in told[2][0]
    kept = api.get("/api/v1/models/lasting/versions/1/golden").content
    assert kept == files[0].read_bytes()


def counted(server: Server) -> dict[str, float]:
    """Return the merged counters by name."""
    text = httpx.get(server.state()["control_url"] + "/metrics").text
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith(("_total", "_count")) and sample.labels.get("code") in (
                None,
                "ok",
            ):
                totals[sample.name] = totals.get(sample.name, 0) + sample.value
    return totals


def test_counters_survive_every_process(server: Server, tmp_path: Path) -> None:
    """Killing worker, gateway and control lowers no counter and counts no request twice."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    server.push(models.onnx_identity("FP32", 3), "counted", "--example", str(example))
    server.ok("deploy", "counted")
    before = counted(server).get("salver_requests_total", 0.0)
    sent = 0
    floor: dict[str, float] = {}
    for victim in ("shared-0", "gateway-0", "control", ""):
        with server.client() as client:
            for _ in range(25):
                client.predict("counted", [[1.0, 2.0]])
                sent += 1
        expected = before + sent
        wait_until(
            lambda expected=expected: counted(server).get("salver_requests_total", 0) >= expected,  # type: ignore[misc]
            f"{expected} requests counted",
        )
        now = counted(server)
        assert now["salver_requests_total"] == expected
        assert all(now.get(name, 0) >= value for name, value in floor.items())
        floor = now
        if victim:
            # The counts of the last second are those that control has heard of.
            server.kill(victim)
            wait_until(
                lambda: server.salver("predict", "counted", "-", stdin=b"[[1, 2]]").returncode == 0,
                "served again",
            )
            sent += 1
            assert all(counted(server).get(name, 0) >= value for name, value in floor.items())
    assert json.dumps(floor)


def test_logs_hold_no_values(server: Server, tmp_path: Path) -> None:
    """What callers send is in no log."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    server.push(models.onnx_identity("FP32", 2), "secretive", "--example", str(example))
    server.ok("deploy", "secretive")
    with server.client() as client:
        client.predict("secretive", [[8675309.0, 2.0]])
    for log in (server.home / "logs").glob("*.log"):
        assert "8675309" not in log.read_text()


def test_how_callers_are_routed_is_kept_and_shown(
    server: Server, api: httpx.Client, tmp_path: Path
) -> None:
    """Key and rules come from options and a file; variants say who gets how much."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    server.push(models.onnx_identity("FP32", 2), "routed", "--example", str(example))
    rules = tmp_path / "routing.yaml"
    rules.write_text("rules:\n  - {to: canary, headers: {x-beta: '1'}, max_bytes: 64}\n")
    server.ok("deploy", "routed", "--routing", str(rules), "--routing-key", "header:x-user")
    shown = api.get("/api/v1/endpoints/routed").json()
    assert shown["routing"] == {
        "key": "header:x-user",
        "rules": [{"to": "canary", "headers": {"x-beta": "1"}, "max_bytes": 64}],
    }
    (variant,) = shown["variants"]
    assert (variant["id"], variant["role"], variant["weight"]) == ("routed:1", "primary", 10_000)


@pytest.mark.parametrize(
    ("routing", "cause"),
    [
        ({"key": "cookie:a"}, "header:NAME"),
        ({"keys": "header:a"}, "routing.keys: unknown key; did you mean 'key'?"),
        ({"rules": [{"to": "canary"}]}, "holds for every request"),
        ({"rules": [{"caller": "a"}]}, "routing.rules.0.to: Field required"),
    ],
)
def test_a_routing_that_cannot_work_is_refused(
    api: httpx.Client, routing: object, cause: str
) -> None:
    """Before anything is changed."""
    response = api.put("/api/v1/endpoints/any", json={"model": "any", "routing": routing})
    assert code(response) == "invalid_request"
    assert cause in response.json()["error"]
