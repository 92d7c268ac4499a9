"""Models that are code, from the push to the answer, and what they may not break."""

import http.client
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import grpc
import pytest

from salver.client.admin import listing
from salver.gateway.grpc.schema import message_class
from tests import models
from tests.e2e.server import Server, ask, wait_until, write_rows

FAILS, EXITS, DIES, HANGS, HOLDS, FLOODS, SLOW = (-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0)
SOURCE = f"""
import os
import re
import sys
import time

import numpy as np


class Model:
    async def load(self, path):
        print("loading from a folder with", sorted(file.name for file in path.iterdir()))

    async def predict(self, inputs):
        x = inputs["x"]
        if (x == {FAILS}).any():
            raise ValueError("no negatives")
        if (x == {EXITS}).any():
            sys.exit(3)
        if (x == {DIES}).any():
            os._exit(3)
        if (x == {HANGS}).any():
            time.sleep(3600)
        if (x == {HOLDS}).any():
            re.match(r"(a+)+$", "a" * 60 + "b")
        if (x == {FLOODS}).any():
            return {{"y": np.zeros((len(x), 1 << 20), np.float32)}}
        if (x == {SLOW}).any():
            time.sleep(1)
        return {{"y": 2 * x}}
"""
STREAM = """
import numpy as np


class Model:
    def predict_stream(self, inputs):
        for index in range(int(inputs["x"][0, 0])):
            yield {"y": np.array([[index]], np.int64)}
"""
SMALL_FRAMES = """
engine: {max_frame_bytes: 2097152, unresponsive_s: 4, stuck_s: 5}
supervisor: {backoff_max_s: 0.2}
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with code on two replicas, code that streams, and a model beside them."""
    folder = tmp_path_factory.mktemp("code")
    home = folder / "home"
    home.mkdir()
    (home / "salver.yaml").write_text(SMALL_FRAMES)
    with Server(home) as running:
        for name, source in (("coded", SOURCE), ("counting", STREAM)):
            example = one_number(folder / f"{name}.json", 2.0)
            running.push(
                write(folder / name, source), name, "--example", str(example), "--trust-code"
            )
        running.ok("deploy", "coded", "--replicas", "2")
        running.ok("deploy", "counting")
        running.deploy_scaled(folder)
        yield running


def write(folder: Path, source: str, **files: str) -> Path:
    """Write a folder with a model; names use ``__`` for a dot."""
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(dedent(source))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def one_number(path: Path, value: float) -> Path:
    """Write a body of the protocol with one number."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    path.write_text(json.dumps({"inputs": [item]}))
    return path


def ask_within(port: int, number: float, timeout_s: float) -> tuple[int, Any]:
    """Send one number with a deadline."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}
    body = {"inputs": [item], "parameters": {"timeout": round(timeout_s * 1e6)}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v2/models/coded/infer", json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def log_of(server: Server, prefix: str) -> str:
    """Return what workers of a name wrote."""
    return "".join(path.read_text() for path in (server.home / "logs").glob(f"{prefix}*"))


def ready(server: Server) -> bool:
    """Tell whether both replicas answer."""
    with server.client() as client:
        found = {item["name"]: item["ready_replicas"] for item in client.endpoints()}
    return bool(found["coded"] == 2)


def test_code_must_be_trusted_by_name(serving: Server, tmp_path: Path) -> None:
    """Without --trust-code a folder or a file with model.py is refused, and nothing of it ran."""
    folder = write(tmp_path / "m", f"open({str(tmp_path / 'ran')!r}, 'w')\n" + SOURCE)
    for words in ((), ("--runtime", "python"), ("--trust-pickle",)):
        for path in (folder, folder / "model.py"):
            done = serving.salver("push", str(path), "--name", "untold", *words)
            assert done.returncode == 1
            assert b"[code_refused]" in done.stderr
            assert b"--trust-code" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert "untold" not in [item["name"] for item in serving.json("get", "models")]


def test_code_answers_from_processes_of_its_own(serving: Server) -> None:
    """Its replicas and its quarantine host nothing else, and shared workers host no code."""
    assert ask(serving.port, "coded", 21.0) == (
        200,
        {
            "model_name": "coded",
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [42.0]}],
        },
    )
    with serving.client() as client:
        pushes = [
            event["details"].get("trusted")
            for event in client.run(listing("events"))
            if (event["action"], event["subject"]) == ("push", "coded:1")
        ]
    assert pushes[-1] == "code"
    hosted = {worker["id"]: worker["models"] for worker in serving.json("get", "workers")}
    assert hosted["dedicated-coded-1-0"] == hosted["dedicated-coded-1-1"] == ["coded:1"]
    assert hosted["quarantine-coded-1"] == ["coded:1"]
    assert hosted["quarantine-0"] == hosted["shared-0"] == ["scaled:1"]


def test_what_code_prints_and_raises_is_in_its_log(serving: Server) -> None:
    """The caller gets type, message and line; the worker's log also print and traceback."""
    status, document = ask(serving.port, "coded", FAILS)
    assert (status, document["code"]) == (500, "model_failed")
    assert document["error"] == "model.py line 17: ValueError: no negatives"
    log = log_of(serving, "dedicated-coded-1")
    assert "Traceback (most recent call last)" in log
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    printed = [event["text"] for event in events if event["event"] == "model_output"]
    assert "loading from a folder with ['model.py']" in printed


def test_an_exit_is_an_error_of_its_request(serving: Server) -> None:
    """sys.exit ends no process: its caller gets a code, the pids stay."""
    before = [serving.pid_of(f"dedicated-coded-1-{index}") for index in range(2)]
    status, document = ask(serving.port, "coded", EXITS)
    assert (status, document["code"]) == (500, "model_failed")
    assert "sys.exit(3) was called" in document["error"]
    assert [serving.pid_of(f"dedicated-coded-1-{index}") for index in range(2)] == before


def test_a_process_outlives_what_it_answered(serving: Server) -> None:
    """The deadline of a request that was answered means nothing any more."""
    before = [serving.pid_of(f"dedicated-coded-1-{index}") for index in range(2)]
    answers = [ask_within(serving.port, float(number), 1.0)[0] for number in range(8)]
    assert 200 in answers
    time.sleep(1.5)
    assert [serving.pid_of(f"dedicated-coded-1-{index}") for index in range(2)] == before


def test_an_answer_that_is_too_large_is_an_error(serving: Server) -> None:
    """What does not fit into a message is refused with a code, and the next is answered."""
    status, document = ask(serving.port, "coded", FLOODS)
    assert (status, document["code"]) == (500, "model_failed")
    assert ask(serving.port, "coded", 1.0)[0] == 200


@pytest.mark.parametrize("poison", [DIES, HOLDS])
def test_code_that_ends_its_process_ends_one_request(serving: Server, poison: float) -> None:
    """A process that dies, or lets nothing else run, costs its own request; others are answered."""
    wait_until(lambda: ready(serving), "both replicas")
    with ThreadPoolExecutor(17) as pool:
        poisoned = pool.submit(ask_within, serving.port, poison, 60.0)
        others = list(pool.map(lambda n: ask_within(serving.port, n, 60.0), range(1, 17)))
        status, document = poisoned.result()
    assert (status, document["code"]) == (500, "worker_crashed")
    assert [answer["outputs"][0]["data"] for _, answer in others] == [
        [2.0 * number] for number in range(1, 17)
    ]
    assert ask(serving.port, "scaled", 3.0)[0] == 200


def test_code_that_hangs_costs_its_own_request(serving: Server) -> None:
    """Its batch is taken from it in time: neighbours are answered alone, before their deadline."""
    wait_until(lambda: ready(serving), "both replicas")
    with ThreadPoolExecutor(10) as pool:
        # Both replicas are busy while the rest arrives, so that it becomes batches.
        busy = [pool.submit(ask_within, serving.port, SLOW, 60.0) for _ in range(2)]
        hanging = pool.submit(ask_within, serving.port, HANGS, 16.0)
        others = list(pool.map(lambda n: ask_within(serving.port, n, 30.0), range(1, 8)))
        assert [one.result()[0] for one in busy] == [200, 200]
        _, document = hanging.result()
    assert document["code"] in ("deadline_exceeded", "worker_crashed")
    assert [answer["outputs"][0]["data"] for _, answer in others] == [
        [2.0 * number] for number in range(1, 8)
    ]
    wait_until(lambda: "code_stuck" in log_of(serving, ""), "the process was ended")
    wait_until(lambda: ready(serving), "both replicas again")


def test_a_stream_arrives_chunk_by_chunk(serving: Server) -> None:
    """Over ModelStreamInfer each yield is an answer; over REST they come joined."""
    assert ask(serving.port, "counting", 4.0)[1]["outputs"][0]["data"] == [0, 1, 2, 3]
    request = message_class("inference.ModelInferRequest")(model_name="counting", id="mine")
    item = request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    item.contents.fp32_contents.append(4.0)
    with grpc.insecure_channel(serving.grpc_target) as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_class("inference.ModelStreamInferResponse").FromString,
        )
        answers = list(call(iter([request]), timeout=60))
    assert not any(answer.error_message for answer in answers)
    chunks = [list(answer.infer_response.outputs) for answer in answers]
    numbers = [list(output.contents.int64_contents) for chunk in chunks for output in chunk]
    assert numbers == [[0], [1], [2], [3]]


def test_requirements_are_checked_at_the_push(serving: Server, tmp_path: Path) -> None:
    """What is missing is named with what is installed and the fix; nothing is stored."""
    folder = write(tmp_path / "m", SOURCE, requirements__txt="numpy>=1\nno-such-thing>=2\n")
    example = one_number(tmp_path / "one.json", 2.0)
    words = ("--name", "needy", "--trust-code", "--example", str(example))
    done = serving.salver("push", str(folder), *words)
    assert done.returncode == 1
    assert b"[requirements_unmet]" in done.stderr
    assert b"line 2: no-such-thing is not installed" in done.stderr
    assert "needy" not in [item["name"] for item in serving.json("get", "models")]
    (folder / "requirements.txt").write_text("numpy>=1\n")
    serving.ok("push", str(folder), *words)


DEEP = """
class Model:
    def predict(self, inputs):
        first, second = [], []
        for _ in range(10**6):
            first, second = [first], [second]
        # Comparing goes as deep as they nest.

        return first == second
"""
HOSTILE = {
    "exits at import": ("import os\nos._exit(0)", "ended by itself"),
    "kills itself": ("import os\nos.kill(os.getpid(), 11)", "SIGSEGV"),
    "does not parse": ("class Model(:", "model.py line 1"),
    "nests too deeply": ("x = " + "(" * 5000 + ")" * 5000, "model.py"),
    "recurses in C": (DEEP, "model.py line 9"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_is_refused_and_serving_goes_on(
    serving: Server, tmp_path: Path, name: str
) -> None:
    """It breaks the process that examines it at most; the cause is one line."""
    source, cause = HOSTILE[name]
    folder = write(tmp_path / "m", source)
    example = one_number(tmp_path / "one.json", 2.0)
    done = serving.salver(
        "push", str(folder), "--name", "evil", "--trust-code", "--example", str(example)
    )
    error = done.stderr.decode()
    assert done.returncode == 1, error
    assert cause in error
    assert "Traceback" not in error
    assert ask(serving.port, "scaled", 2.0)[0] == 200


def test_links_and_compiled_code_are_no_part_of_a_push(serving: Server, tmp_path: Path) -> None:
    """A linked model.py is refused, a folder of compiled files is left out."""
    target = write(tmp_path / "elsewhere", SOURCE) / "model.py"
    for link in (os.symlink, os.link):
        folder = tmp_path / link.__name__
        folder.mkdir()
        link(target, folder / "model.py")
        done = serving.salver("push", str(folder), "--name", "linked", "--trust-code")
        assert done.returncode == 1
        assert b"link" in done.stderr
    folder = write(tmp_path / "m", SOURCE)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"something else")
    example = one_number(tmp_path / "one.json", 2.0)
    again = serving.json(
        "push", str(folder), "--name", "coded", "--trust-code", "--example", str(example)
    )
    assert again["version"] == 1


def test_other_files_of_a_folder_with_code_can_be_served(serving: Server, tmp_path: Path) -> None:
    """--runtime names what is meant, and then the code beside it does not run."""
    folder = write(tmp_path / "m", f"open({str(tmp_path / 'ran')!r}, 'w')")
    model = models.onnx_identity("FP32", 2)
    (folder / model.name).write_bytes(model.read_bytes())
    rows = write_rows(tmp_path / "rows.json", [[1.0, 2.0]])
    serving.push(folder, "beside", "--runtime", "onnx", "--example", str(rows))
    assert not (tmp_path / "ran").exists()
