"""From a model file to predictions through the command line, for every format."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import onnxruntime
import psutil
import pytest
import skops.io
import xgboost

from salver.core.tensor import AnyArray
from tests import models
from tests.e2e.server import SALVER, Server, run, wait_until, write_rows


def direct_onnx(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """Ask ONNX Runtime itself."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: rows.astype(np.float32)})
    return dict(zip(names, values, strict=True))


def direct_xgboost(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """Ask XGBoost itself."""
    booster = xgboost.Booster(model_file=str(path))
    return {"prediction": booster.inplace_predict(rows.astype(np.float32))}


def direct_lightgbm(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """Ask LightGBM itself."""
    return {"prediction": np.asarray(lightgbm.Booster(model_file=str(path)).predict(rows))}


def direct_sklearn(path: Path, rows: AnyArray) -> dict[str, AnyArray]:
    """Ask scikit-learn itself."""
    trusted = skops.io.get_untrusted_types(file=path)
    model = skops.io.load(path, trusted=trusted)
    return {"prediction": model.predict(rows)}


CASES: dict[
    str, tuple[Callable[[], Path], str, Callable[[Path, AnyArray], dict[str, AnyArray]]]
] = {
    "onnx": (models.onnx_breast_cancer, "breast_cancer", direct_onnx),
    "xgboost-json": (lambda: models.xgboost_iris("json"), "iris", direct_xgboost),
    "xgboost-ubj": (lambda: models.xgboost_iris("ubj"), "iris", direct_xgboost),
    "lightgbm": (models.lightgbm_wine, "wine", direct_lightgbm),
    "sklearn": (models.skops_diabetes, "diabetes", direct_sklearn),
}


@pytest.mark.parametrize("name", CASES)
def test_push_deploy_predict(server: Server, name: str, tmp_path: Path) -> None:
    """Each format is pushed, deployed and answers what its own library answers."""
    make, data, direct = CASES[name]
    rows = models.rows(data)[:7]
    example = write_rows(tmp_path / "rows.json", rows[:2].tolist())
    server.push(make(), name, "--example", str(example), "--label", "team=tests")
    server.ok("deploy", name)
    expected = direct(make(), rows)
    with server.client() as client:
        answer = client.predict(name, rows.tolist())
    assert set(expected) == set(answer.outputs)
    for output, array in expected.items():
        np.testing.assert_allclose(answer.outputs[output], array, rtol=1e-5)
    printed = json.loads(server.ok("predict", name, str(example), "-o", "json"))
    assert len(printed) == 2


def test_a_published_model(server: Server, tmp_path: Path) -> None:
    """The magika model of its wheel is served as it is and tells a shell script from Python."""
    server.push(models.magika(), "magika")
    server.ok("deploy", "magika")
    tokens = np.full((2, 2048), 256, np.int32)
    for row, content in enumerate((b"#!/bin/sh\nset -e\n", b"import os\nprint(os.sep)\n")):
        tokens[row, : len(content)] = list(content)
    with server.client() as client:
        (scores,) = client.predict("magika", {"bytes": tokens}).outputs.values()
    session = onnxruntime.InferenceSession(str(models.magika()))
    np.testing.assert_allclose(scores, session.run(None, {"bytes": tokens})[0], rtol=1e-4)


def test_rows_csv_records_and_bodies_are_the_same(server: Server, tmp_path: Path) -> None:
    """Plain rows, named rows, CSV and an OIP body give the same answer, from files and stdin."""
    server.push(models.xgboost_iris("json"), "forms")
    server.ok("deploy", "forms")
    names = models.columns("iris")
    rows = models.rows("iris")[:2].tolist()
    plain = write_rows(tmp_path / "plain.json", rows)
    records = write_rows(
        tmp_path / "records.json", [dict(zip(names, row, strict=True)) for row in rows]
    )
    table = tmp_path / "table.csv"
    table.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]))
    expected = json.loads(server.ok("predict", "forms", str(plain), "-o", "json"))
    for file in (records, table):
        assert json.loads(server.ok("predict", "forms", str(file), "-o", "json")) == expected
    piped = server.ok("predict", "forms", "-", "-o", "json", stdin=plain.read_bytes())
    assert json.loads(piped) == expected
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [2, 4], "data": rows}]}
    oip = tmp_path / "body.json"
    oip.write_text(json.dumps(body))
    answer = json.loads(server.ok("predict", "forms", str(oip)))
    np.testing.assert_allclose(
        np.reshape(answer["outputs"][0]["data"], (2, 3)),
        [row["prediction"] for row in expected],
        rtol=1e-6,
    )


def test_the_same_bytes_are_the_same_version(server: Server) -> None:
    """Pushing a file twice gives version 1 twice, another file version 2."""
    for seed, version, existing in ((1, 1, False), (1, 1, True), (2, 2, False)):
        example = json.dumps(models.rows("iris")[:2].tolist())
        path = models.skops_iris(seed).with_suffix(".json")
        path.write_text(example)
        pushed = server.json(
            "push", str(models.skops_iris(seed)), "--name", "twice", "--example", str(path)
        )
        assert (pushed["version"], pushed["existing"]) == (version, existing)


def test_aliases_move_endpoints(server: Server, tmp_path: Path) -> None:
    """An endpoint that follows an alias serves what the alias points to; a pinned one does not."""
    example = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    for scale in (2, 3):
        path = models.onnx_identity("FP32", scale)
        server.push(path, "scaled", "--example", str(example))
    server.ok("alias", "scaled@live", "1")
    server.ok("deploy", "scaled@live", "--endpoint", "follows")
    server.ok("deploy", "scaled:1", "--endpoint", "pinned")
    with server.client() as client:
        assert client.predict("follows", [[10.0]]).outputs["y"] == 20
        server.ok("alias", "scaled@live", "2")
        wait_until(
            lambda: bool(client.predict("follows", [[10.0]]).outputs["y"] == 30),
            "it follows its alias",
        )
        assert client.predict("pinned", [[10.0]]).outputs["y"] == 20


def test_listings(server: Server) -> None:
    """get prints lists of objects with the promised fields, in every format."""
    workers = server.json("get", "workers")
    for worker in workers:
        assert {"id", "pid", "state", "models", "resident_bytes"} <= set(worker)
    assert any(worker["pid"] and worker["resident_bytes"] > 0 for worker in workers)
    assert {item["name"] for item in server.json("get", "models")} >= {"onnx"}
    for what in ("models", "endpoints", "workers"):
        for form in ("table", "yaml"):
            assert server.ok("get", what, "-o", form)
    status = server.json("status")
    roles = [process["role"] for process in status["processes"]]
    assert {"gateway", "worker", "control"} <= set(roles)
    assert server.ok("logs", "-n", "3")


def test_undeploy(server: Server) -> None:
    """An undeployed endpoint is 404, its versions stay and can be deployed again."""
    server.push(models.xgboost_iris("json"), "leaving")
    server.ok("deploy", "leaving")
    server.ok("undeploy", "leaving")
    done = server.salver("predict", "leaving", "-", stdin=b"[[1,2,3,4]]")
    assert done.returncode == 1
    assert b"endpoint_not_found" in done.stderr
    server.ok("deploy", "leaving:1")


def test_in_the_foreground(home: Path, tmp_path: Path) -> None:
    """Without --detach the command serves until Ctrl-C, and then ends with 0 and its children."""
    words = ["up", "--home", str(home), "--http-port", "0", "--control-port", "0"]
    process = subprocess.Popen([str(SALVER), *words], stderr=subprocess.PIPE)
    server = Server(home)
    try:
        wait_until(lambda: server.supervisor_pid() == process.pid, "it is up")
        server.deploy_scaled(tmp_path)
        answer = server.ok("predict", "scaled", "-", "-o", "json", stdin=b"[[4]]")
        assert json.loads(answer) == [{"y": 8.0}]
        children = psutil.Process(process.pid).children(recursive=True)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0
        assert b"data port http://127.0.0.1:" in said
        assert said.endswith(b"stopped\n")
        assert children
        assert not any(child.is_running() for child in children)
    finally:
        process.kill()
        process.wait()


REFUSED = {
    ("push", "/nonexistent.onnx", "--name", "x"): "not_found",
    ("deploy", "no-such-model"): "model_not_found",
    ("deploy", "onnx:99"): "version_not_found",
    ("deploy", "onnx@nobody"): "alias_not_found",
    ("deploy", "../etc"): "invalid_name",
    ("alias", "onnx@a", "99"): "version_not_found",
    ("undeploy", "no-such-endpoint"): "endpoint_not_found",
    ("predict", "no-such-endpoint", "/dev/null"): "endpoint_not_found",
    ("predict", "onnx", "/dev/null"): "invalid_example",
    ("logs", "nobody"): "not_found",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_refusals_are_one_coded_line(server: Server, words: tuple[str, ...]) -> None:
    """What cannot be done exits with 1 and one line with cause and code."""
    done = server.salver(*words)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert f"[{REFUSED[words]}]".encode() in done.stderr


@pytest.mark.parametrize(
    "words", [("deploy",), ("get", "everything"), ("nonsense",), ("push", "x"), ("up", "--bad")]
)
def test_wrong_usage_exits_with_2(words: tuple[str, ...]) -> None:
    """Wrong words are told apart from failures."""
    assert run(*words).returncode == 2


def test_without_a_server_the_error_says_what_to_do(home: Path) -> None:
    """A command without a server names the fix."""
    done = run("get", "models", "--home", str(home), "--control-url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert b"salver up" in done.stderr
    assert run("stop", "--home", str(home)).returncode == 1


def test_pickles_are_refused_unless_trusted(server: Server, tmp_path: Path) -> None:
    """A pickle is refused with the reason, and served from a worker of its own when trusted."""
    import joblib  # noqa: PLC0415 - only here
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    rows = models.rows("iris")
    path = tmp_path / "model.joblib"
    joblib.dump(LogisticRegression(max_iter=500).fit(rows, np.arange(len(rows)) % 2), path)
    example = write_rows(tmp_path / "rows.json", rows[:2].tolist())
    done = server.salver("push", str(path), "--name", "pickled", "--example", str(example))
    assert done.returncode == 1
    assert b"pickle_refused" in done.stderr
    server.push(path, "pickled", "--example", str(example), "--trust-pickle")
    server.ok("deploy", "pickled")
    workers = {worker["id"]: worker for worker in server.json("get", "workers")}
    assert workers["dedicated-pickled-1-0"]["models"] == ["pickled:1"]
    with server.client() as client:
        assert client.predict("pickled", rows[:3].tolist()).outputs["label"].shape == (3,)
