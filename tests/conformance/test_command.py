"""The command says how a server did, and its exit code says it to programs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.breaks import MODEL as MODEL_BREAKS
from tests.conformance.breaks import SERVER
from tests.conformance.broken_server import WHOLE, TinyServer
from tests.conformance.oip_model import MODEL

KEY = "a-secret-key-9f2c"


def conformance(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    script = "from salver.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, "conformance", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


def test_a_right_server() -> None:
    """The table has every section and a summary, and the exit code is 0."""
    with TinyServer() as server:
        done = conformance(server.url, "--model", MODEL)
    assert (done.returncode, done.stderr) == (0, "")
    for title in ("Server", "Inference", "Refusals", "Binary tensor extension"):
        assert f"\n{title}\n" in f"\n{done.stdout}"
    assert "FAILED" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("required: ")


def test_a_broken_server() -> None:
    """A failed check is shown with its sentence and what went over the wire; exit code 1."""
    with TinyServer(MODEL_BREAKS["model has another name"]) as server:
        done = conformance(server.url, "--model", MODEL)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if "FAILED  model.name " in line]
    assert "'name' is 'other' instead of 'Everything'" in line
    assert "“The name of the model.”" in done.stdout
    assert f"> GET /v2/models/{MODEL}" in done.stdout
    assert "< 200" in done.stdout


def test_what_is_only_recommended_does_not_decide() -> None:
    """A server that fails recommended checks only gets exit code 0."""
    with TinyServer(SERVER["live has no body"]) as server:
        done = conformance(server.url, "--model", MODEL)
    assert "FAILED  server.live_body " in done.stdout
    assert done.returncode == 0


def test_json_for_programs() -> None:
    """With -o json each check has its verdict, level and reference; exchanges where it failed."""
    with TinyServer(MODEL_BREAKS["platform is missing"]) as server:
        done = conformance(server.url, "--model", MODEL, "-o", "json")
    document = json.loads(done.stdout)
    assert document["conforms"] is False
    entries = {entry["name"]: entry for entry in document["checks"]}
    assert entries["model.platform"]["verdict"] == "failed"
    assert entries["model.platform"]["quote"] == "The framework/backend for the model."
    assert entries["model.platform"]["exchanges"][0]["status"] == 200
    assert "exchanges" not in entries["model.name"]


def test_the_first_listed_model_is_asked() -> None:
    """Without --model a server that lists its models is asked for the first one."""
    with TinyServer() as server:
        assert conformance(server.url).returncode == 0


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_key_is_sent_and_never_shown(output: str) -> None:
    """--api-key opens a guarded server, and no output holds it, however verbose."""
    with TinyServer(WHOLE, KEY) as server:
        arguments = (server.url, "--model", MODEL, "--api-key", KEY, "--verbose", "-o", output)
        done = conformance(*arguments)
    assert done.returncode == 0
    assert "***" in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_a_missing_key() -> None:
    """A guarded server without a key is exit code 2 with the option that helps."""
    with TinyServer(WHOLE, KEY) as server:
        done = conformance(server.url, "--model", MODEL)
    assert done.returncode == 2
    assert "--api-key" in done.stderr


def test_nobody_there() -> None:
    """An address where nothing listens is exit code 2, with the cause and the fix in one line."""
    done = conformance("http://127.0.0.1:1", "--model", MODEL)
    assert done.returncode == 2
    assert done.stderr.startswith("error: http://127.0.0.1:1 cannot be asked")
    assert done.stderr.endswith("[not_ready]\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1", "http://", "http://127.0.0.1:0", "http://me:word@127.0.0.1:80", "::"]
)
def test_no_address(url: str) -> None:
    """What is no address is exit code 2 and says how one is written."""
    done = conformance(url)
    assert done.returncode == 2
    assert "write it like http://127.0.0.1:8080" in done.stderr


def test_an_example_replaces_made_up_values(tmp_path: Path) -> None:
    """The example's values are what is sent; a file that is no request is exit code 2."""
    path = tmp_path / "request.json"
    path.write_text('{"inputs": "none"}')
    with TinyServer() as server:
        done = conformance(server.url, "--model", MODEL, "--example", str(path))
        assert (done.returncode, "no inference request" in done.stderr) == (2, True)
        path.write_text("{")
        done = conformance(server.url, "--model", MODEL, "--example", str(path))
        assert (done.returncode, "is not JSON" in done.stderr) == (2, True)
        path.write_text('{"inputs": [{"name": "strange", "shape": [1], "datatype": "FP32"}]}')
        done = conformance(server.url, "--model", MODEL, "--example", str(path))
        assert done.returncode == 1
        assert "FAILED  infer.answers " in done.stdout
        missing = conformance(server.url, "--example", str(tmp_path / "none.json"))
        assert missing.returncode == 2


def test_pytest_runs_the_same_checks() -> None:
    """Under pytest there is a test for each check, and it fails where one fails."""
    plugins = ("-p", "no:cacheprovider", "-p", "salver.conformance.plugin")
    base = [sys.executable, "-m", "pytest", "-q", *plugins, "--pyargs"]
    for defect, code in ((WHOLE, 0), (MODEL_BREAKS["model has another name"], 1)):
        with TinyServer(defect) as server:
            done = subprocess.run(
                [*base, "salver.conformance", "--base-url", server.url, "--model", MODEL],
                capture_output=True,
                check=False,
                text=True,
                timeout=120,
            )
        assert done.returncode == code, done.stdout + done.stderr
        assert ("test_server[model.name]" in done.stdout) == bool(code)
