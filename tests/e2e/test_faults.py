"""What dies, moves or fills up under load, and what callers notice of it: nothing, or a code."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil

from tests import models
from tests.e2e import census
from tests.e2e.load import Load, assert_unharmed
from tests.e2e.server import SALVER, Server, ask, run, wait_until

KILLS = 20
CONNECTIONS = 64
CALLERS = 16
SLOW_ROUNDS = 20
MOST_LOADS = 8
ABSENT_S = 4


def test_a_killed_worker_fails_no_request_while_another_lives(home: Path, tmp_path: Path) -> None:
    """Twenty times kill -9 of a worker among two, each in the middle of a batch: nothing fails."""
    home.mkdir()
    (home / "salver.yaml").write_text("supervisor: {backoff_max_s: 0.1}")
    with Server(home) as server:
        server.push_scaled(tmp_path, path=models.onnx_slow(2))
        server.ok("deploy", "scaled", "--replicas", "2")
        pause_s = pause_for_half_of(capacity(server))
        hits = kills = 0
        with Load(server.port, "scaled", CONNECTIONS, pause_s) as load:
            while hits < KILLS and kills < 2 * KILLS:
                before = quarantined(server)
                server.kill(f"shared-{kills % 2}", when=computes)
                kills += 1
                wait_until(lambda: _ready(server) == 2, "both replicas ready again")
                # Control sees a replica a moment before the gateway has reconnected to it.
                wait_until(lambda: links(server) == 3, "linked to both and the quarantine")
                time.sleep(0.2)
                hits += quarantined(server) > before
        assert_unharmed(load)
        print(f"{hits} of {kills} kills met a running batch")
        assert hits == KILLS
        # Only requests of a batch that ran are tried again there.
        assert "model_loaded" in (home / "logs" / "quarantine-0.log").read_text()


def links(server: Server) -> int:
    """Return how many workers the only gateway is linked to, quarantines included."""
    pid = server.pid_of("gateway-0")
    assert pid is not None
    return census.held(pid)[census.LEDGERS]


def computes(pid: int) -> bool:
    """Tell whether a worker's model runs; that happens in other threads than its first."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if int(thread.name) != pid:
            with contextlib.suppress(OSError):
                if (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                    return True
    return False


def quarantined(server: Server) -> float:
    """Return how many requests had their batch run when a worker died."""
    return server.gateway_metric("salver_quarantined_total") or 0.0


def capacity(server: Server) -> float:
    """Return how many requests a second are answered when nobody pauses."""
    with Load(server.port, "scaled", CONNECTIONS, pause_s=0.0) as load:
        wait_until(lambda: load.answered > CONNECTIONS, "traffic")
        before, since = load.answered, time.monotonic()
        time.sleep(2.0)
        return (load.answered - before) / (time.monotonic() - since)


def pause_for_half_of(rate: float) -> float:
    """Return the pause with which all connections together ask for half of a rate."""
    return CONNECTIONS / (rate / 2)


def _ready(server: Server) -> int:
    with server.client() as client:
        return int(client.endpoints()[0]["ready_replicas"])


def test_control_deploys_and_alias_moves_fail_no_request(home: Path, tmp_path: Path) -> None:
    """Killing control, deploying a new version, and moving an alias are not noticed by callers.

    They ask for half of what the server can do, over 64 connections.
    """
    home.mkdir()
    (home / "salver.yaml").write_text("supervisor: {backoff_max_s: 0.1}")
    with Server(home) as server:
        server.push_scaled(tmp_path, path=models.onnx_slow(2))
        server.push_scaled(tmp_path, path=models.onnx_slow(3))
        server.ok("alias", "scaled@live", "1")
        server.ok("deploy", "scaled@live", "--endpoint", "scaled")
        pause_s = pause_for_half_of(capacity(server))
        with Load(server.port, "scaled", CONNECTIONS, pause_s) as load:
            for number in range(KILLS):
                # Most are killed while they start, which takes longer than all the rest.
                if number % 5 == 0:
                    wait_until(
                        lambda: _control_is(server.pid_of("control"), home), "control serves"
                    )
                server.kill("control")
            wait_until(lambda: server.salver("status").returncode == 0, "control answers again")
            server.ok("alias", "scaled@live", "2")
            wait_until(lambda: load.factors[3.0] > 0, "version 2 answers")
            server.ok("deploy", "scaled:1", "--endpoint", "scaled")
            time.sleep(0.3)
            server.ok("deploy", "scaled:2", "--endpoint", "scaled")
        assert_unharmed(load)
        assert load.factors[2.0] > 0


def _control_is(pid: int | None, home: Path) -> bool:
    """Tell whether this process has said that it is control, the last thing that it does first."""
    return bool(json.loads((home / "run" / "control.json").read_text())["pid"] == pid)


def test_a_killed_gateway_breaks_only_its_own_connections(home: Path, tmp_path: Path) -> None:
    """After kill -9 of one gateway of two, its connections break once; new ones are served."""
    with Server(home, "--gateways", "2") as server, ExitStack() as stack:
        server.deploy_scaled(tmp_path)
        loads: list[Load] = []
        held = (0, 0)
        while 0 in held and len(loads) < MOST_LOADS:
            loads.append(stack.enter_context(Load(server.port, "scaled", connections=32)))
            wait_until(lambda: sum(held_by(server)) == 32 * len(loads), "all are connected")
            held = held_by(server)
        assert 0 not in held, "one gateway has all connections"
        pid = server.pid_of("gateway-0")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert ask(server.port, "scaled", 21.0)[0] == 200
        wait_until(lambda: sum(load.broken for load in loads) >= held[0], "they break")
        wait_until(lambda: server.pid_of("gateway-0") not in (None, pid), "it is restarted")
        wait_until(lambda: sum(held_by(server)) == 32 * len(loads), "all are connected again")
        stack.close()
        assert sum(load.broken for load in loads) == held[0]
        for load in loads:
            assert not load.failed
            assert load.refused == load.wrong == 0


def held_by(server: Server) -> tuple[int, int]:
    """Return how many clients' connections each of two gateways holds."""
    first, second = (_held(server, f"gateway-{index}") for index in range(2))
    return first, second


def _held(server: Server, identity: str) -> int:
    pid = server.pid_of(identity)
    if pid is None:
        return 0
    connections = psutil.Process(pid).net_connections("tcp")
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == server.port
        for connection in connections
    )


def test_new_connections_wait_for_the_only_gateway(home: Path, tmp_path: Path) -> None:
    """While the only gateway restarts, new connections are not refused but served by the next."""
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        pid = server.pid_of("gateway-0")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with Load(server.port, "scaled", connections=4) as load:
            wait_until(lambda: load.answered > 20, "answers from the next gateway")
        assert load.broken <= 4
        assert load.refused == 0
        assert load.wrong == 0


def test_the_only_worker_killed_gives_coded_refusals_and_comes_back(
    home: Path, tmp_path: Path
) -> None:
    """Who waited waits on, new callers get 503 with Retry-After; nothing else fails.

    The supervisor is told to wait a while, so that callers surely come meanwhile: all the others
    may be waiting already. How long it takes by itself is measured by `bench/parts/startup.py`.
    """
    home.mkdir()
    (home / "salver.yaml").write_text(f"supervisor: {{backoff_initial_s: {ABSENT_S}}}\n")
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        # A worker that was named a moment ago is waited for; later its absence is refused.
        time.sleep(1.5)
        with Load(server.port, "scaled", connections=16) as load:
            wait_until(lambda: load.answered > 50, "traffic")
            pid = server.pid_of("shared-0")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: server.pid_of("shared-0") != pid, "it is gone")
            wait_until(lambda: links(server) == 1, "the gateway knows, and has the quarantine")
            with Load(server.port, "scaled", connections=4) as late:
                wait_until(lambda: late.failed.total() > 0, "a refusal")
                before = load.answered
                wait_until(lambda: late.answered > 0, "an answer to who was refused")
            wait_until(lambda: load.answered > before + 50, "answers again")
        for callers in (load, late):
            assert callers.failed.keys() <= {"503 not_ready retry-after"}
            assert callers.broken == callers.refused == callers.wrong == 0


def test_sigterm_answers_what_is_open(home: Path, tmp_path: Path) -> None:
    """Stopping under load cuts no answer, fails no request, and ends each connection once."""
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        with Load(server.port, "scaled", connections=16, pause_s=0.001) as load:
            wait_until(lambda: load.answered > 100, "traffic")
            server.ok("stop")
            wait_until(lambda: load.refused > 0, "callers are refused")
        assert not load.failed
        assert load.wrong == 0
        assert load.cut == 0
        assert load.broken <= 16


def test_sigterm_waits_for_what_runs(home: Path, tmp_path: Path) -> None:
    """Requests in flight at SIGTERM are answered in full while new connections are refused."""
    with Server(home) as server, ThreadPoolExecutor(CALLERS) as callers:
        server.push_scaled(tmp_path, path=models.onnx_slow(2, SLOW_ROUNDS))
        server.ok("deploy", "scaled", "--max-batch-size", "1")
        pid, port = server.supervisor_pid(), server.port
        assert pid is not None
        numbers = [float(index + 1) for index in range(CALLERS)]
        answers = [callers.submit(ask, port, "scaled", number) for number in numbers]
        wait_until(
            lambda: sum(a.done() for a in answers) + (server.in_flight("scaled") or 0) == CALLERS,
            "all have come",
        )
        assert not all(a.done() for a in answers), "the model was too fast to show it"
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: is_refused(port), "a new connection is refused")
        assert not all(answer.done() for answer in answers), "the listener closed last"
        for number, answer in zip(numbers, answers, strict=True):
            status, document = answer.result()
            assert status == 200
            assert document["outputs"][0]["data"] == [2.0 * number]
        assert is_refused(port)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the server has ended")


def is_refused(port: int) -> bool:
    """Tell whether a port takes no connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


def test_everything_is_there_after_a_restart(home: Path, tmp_path: Path) -> None:
    """Stopping and starting brings back models, endpoints and answers, and counters go on."""
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        with server.client() as client:
            for _ in range(5):
                client.predict("scaled", [[1.0]])
        time.sleep(1.5)
        server.ok("stop")
        server.up()
        wait_until(lambda: server.salver("predict", "scaled", "-", stdin=b"[[4]]").returncode == 0,
            "the endpoint answers",
        )  # fmt: skip
        assert server.json("get", "endpoints")[0]["name"] == "scaled"


def test_two_servers_cannot_share_a_home(home: Path) -> None:
    """The second is refused with the first one's pid."""
    with Server(home) as server:
        done = run("up", "--home", str(home), "--http-port", "0", "--control-port", "0")
        assert done.returncode == 1
        assert b"[conflict]" in done.stderr
        assert str(server.supervisor_pid()).encode() in done.stderr


def test_a_taken_port_is_named(home: Path) -> None:
    """A port in use is a coded refusal that says which option to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("up", "--home", str(home), "--http-port", port, "--control-port", "0")
    assert done.returncode == 1
    assert b"--http-port" in done.stderr


def test_an_open_address_takes_keys(home: Path) -> None:
    """Listening for other machines without keys is refused unless said to be meant."""
    done = run("up", "--home", str(home), "--http-host", "0.0.0.0", "--http-port", "0")
    assert done.returncode == 1
    assert b"--api-keys" in done.stderr
    assert b"[invalid_settings]" in done.stderr


def test_a_full_disk_refuses_pushes_and_serving_goes_on(home: Path, tmp_path: Path) -> None:
    """A push without room is refused with the cause; what is deployed answers meanwhile."""
    limit = 2 * 1024 * 1024
    large = tmp_path / "large.onnx"
    large.write_bytes(os.urandom(2 * limit))
    arguments = ["up", "--home", str(home), "--http-port", "0", "--control-port", "0", "--detach"]
    started = subprocess.run(
        [str(SALVER), *arguments],
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert started.returncode == 0, started.stderr
    server = Server(home)
    try:
        server.deploy_scaled(tmp_path)
        with Load(server.port, "scaled", connections=8) as load:
            done = server.salver("push", str(large), "--name", "large")
            assert done.returncode == 1
            assert b"[storage_full]" in done.stderr
            wait_until(lambda: load.answered > 100, "traffic")
        assert_unharmed(load)
    finally:
        server.ok("stop")


def test_damaged_blobs_stop_only_their_own_model(home: Path, tmp_path: Path) -> None:
    """A flipped bit or a cut blob is found at load, named, and nothing else stops serving.

    Pushing the same file again makes it good.
    """
    with Server(home) as server:
        server.deploy_scaled(tmp_path)
        for name, path, damage in (
            ("flipped", models.xgboost_iris("json"), _flip),
            ("cut", models.xgboost_iris("ubj"), _cut),
        ):
            server.push(path, name)
            (version,) = [m for m in server.json("get", "models") if m["name"] == name]
            assert version
            damage(_blob_of(home, path))
            done = server.salver("deploy", name)
            assert done.returncode == 1
            assert b"[digest_mismatch]" in done.stderr
            server.push(path, name)
            assert _blob_of(home, path)
            # The worker looks again by itself what has become of it.
            wait_until(partial(_is_loaded, server, name), f"{name} is loaded")
        answer = server.ok("predict", "scaled", "-", "-o", "json", stdin=b"[[4]]")
        assert "8" in answer


def _is_loaded(server: Server, name: str) -> bool:
    with server.client() as client:
        ready = {item["name"]: item["ready_replicas"] for item in client.endpoints()}
    return bool(ready[name])


def _blob_of(home: Path, path: Path) -> Path:
    size = path.stat().st_size
    content = path.read_bytes()
    for blob in (home / "blobs" / "sha256").glob("??/*"):
        if blob.stat().st_size == size and blob.read_bytes() == content:
            return blob
    raise AssertionError(f"no blob holds {path}")


def _flip(blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


def _cut(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:-7])


def test_a_failed_load_leaves_the_old_version_serving(home: Path, tmp_path: Path) -> None:
    """Deploying a version that cannot be loaded says why, and the old one goes on answering."""
    with Server(home) as server:
        server.push_scaled(tmp_path, 2)
        server.push_scaled(tmp_path, 3)
        server.ok("deploy", "scaled:1", "--endpoint", "scaled")
        _flip(_blob_of(home, models.onnx_identity("FP32", 3)))
        with Load(server.port, "scaled", connections=8) as load:
            done = server.salver("deploy", "scaled:2", "--endpoint", "scaled")
            assert done.returncode == 1
            assert b"[digest_mismatch]" in done.stderr
        assert_unharmed(load)
        assert set(load.factors) == {2.0}


def test_nothing_is_left_running_when_the_supervisor_is_killed(home: Path) -> None:
    """kill -9 of the supervisor ends its children, and the next start takes over."""
    with Server(home) as server:
        pid = server.supervisor_pid()
        assert pid is not None
        children = [server.pid_of(name) for name in ("gateway-0", "control", "shared-0")]
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: not any(child and Path(f"/proc/{child}").exists() for child in children),
            "the children have ended",
        )
        server.up()
        assert server.ok("status")
