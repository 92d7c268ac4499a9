"""What is left of a server that was killed tells nobody where to send secrets."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from salver.client.connection import find_addresses
from salver.core.presence import announced
from tests.client.test_tokens import Stranger
from tests.e2e.server import Server, wait_until, write_rows


@contextmanager
def strangers(*ports: int) -> Iterator[list[Stranger]]:
    """Have somebody else listen at ports; gives who does."""
    found = [Stranger(port) for port in ports]
    threads = [threading.Thread(target=one.serve_forever, args=(0.02,)) for one in found]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        for one, thread in zip(found, threads, strict=True):
            one.shutdown()
            one.server_close()
            thread.join()


def is_free(port: int) -> bool:
    """Tell whether anybody could listen at a port."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_who_takes_the_ports_of_a_killed_server_is_sent_nothing(tmp_path: Path) -> None:
    """Neither token nor key; each command says that nothing runs there, until it does again."""
    home, rows = tmp_path / "home", write_rows(tmp_path / "rows.json", [[1.0]])
    with Server(home) as server:
        state, pid = server.state(), server.supervisor_pid()
        assert pid is not None
        ports = [int(str(state[key]).rpartition(":")[2]) for key in ("http_url", "control_url")]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(map(is_free, ports)), "its processes have followed it")
        assert (home / "run" / "supervisor.json").exists()
        with strangers(*ports) as listening:
            for words in (
                ("status",), ("get", "models"), ("undeploy", "e"), ("bench", "e"),
                ("predict", "e", str(rows), "--api-key", "key"),
            ):  # fmt: skip
                done = server.salver(*words)
                assert done.returncode != 0, words
                assert f"nothing runs from {home} here".encode() in done.stderr, done.stderr
            done = server.salver("stop")
            assert b"no server runs from" in done.stderr
            assert [one.secrets for one in listening] == [[], []]
        server.up()
        assert server.json("status")["home"] == str(home)


def test_a_server_that_stops_takes_back_its_addresses_first(tmp_path: Path) -> None:
    """While it ends, its ports may be anybody's already; it can be told to hurry all the same."""
    with Server(tmp_path / "home") as server:
        gateway, pid = server.pid_of("gateway-0"), server.supervisor_pid()
        assert gateway is not None
        assert pid is not None
        # It does not end before it is hurried.
        os.kill(gateway, signal.SIGSTOP)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: find_addresses(server.home).data_url == "", "no address")
        assert announced(server.home / "run" / "supervisor.json") == {"pid": pid}
        done = server.salver("stop")
        assert done.returncode == 0, done.stderr
        assert not (server.home / "run" / "supervisor.json").exists()


def test_control_alone_keeps_its_port_until_its_address_is_taken_back(tmp_path: Path) -> None:
    """Also while it still waits for the end of a request."""
    command = [sys.executable, "-m", "salver.control", "--home", str(tmp_path), "--port", "0"]
    file = tmp_path / "run" / "control.json"
    with subprocess.Popen(command) as control:
        try:
            wait_until(lambda: announced(file) != {}, "control")
            port = int(str(announced(file)["url"]).rpartition(":")[2])
            token = (tmp_path / "control.token").read_text()
            with socket.create_connection(("127.0.0.1", port)) as open_request:
                head = (
                    "PUT /api/v1/blobs/0 HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
                    f"authorization: Bearer {token}\r\ncontent-length: 9\r\n\r\n"
                )
                open_request.sendall(head.encode())
                assert open_request.recv(1) == b"H"
                control.terminate()
                was_free = False
                while control.poll() is None:
                    # In this order: a port that was free before the address is read.
                    was_free = was_free or is_free(port)
                    assert not (was_free and announced(file))
        finally:
            control.kill()


def test_the_end_of_a_server_on_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """It ends as it should, and what stays of its files names nobody."""
    home = tmp_path / "home"
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with Server(home) as server:
        mount = ["mount", "--bind", str(home / "run"), str(home / "run")]
        subprocess.run(mount, check=True)
        try:
            again = ["mount", "-o", "remount,bind,ro", str(home / "run")]
            subprocess.run(again, check=True)
            done = server.salver("stop")
            assert done.returncode == 0, done.stderr
            assert (home / "run" / "supervisor.json").exists()
            assert find_addresses(home).control_url == ""
            log = (home / "logs" / "supervisor.log").read_text()
            assert "Traceback" not in log
            assert log.rstrip().endswith("stopped")
            assert "Traceback" not in (home / "logs" / "control.log").read_text()
        finally:
            subprocess.run(["umount", str(home / "run")], check=True)
