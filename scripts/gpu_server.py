"""A whole server for the checks on a GPU, driven through the command line and over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

_CLI = [sys.executable, "-c", "from salver.cli.main import main; main()"]
_TIMEOUT_S = 120.0
_LOG_TAIL = 3000


def report(
    seen: dict[str, Any], steps: Mapping[str, Callable[[], Any]], output: Path | None
) -> int:
    """Print as JSON what was ``seen`` and what each step found, or how it failed; 1 if any did.

    One that fails does not keep the others from telling their figures.
    """
    failed = False
    for name, step in steps.items():
        try:
            seen[name] = step()
        except Exception as error:  # whatever it was is told
            failed = True
            seen[name] = f"{type(error).__name__}: {error}"
    text = json.dumps(seen, indent=2)
    print(text)
    if output is not None:
        output.write_text(text + "\n")
    return int(failed)


@contextmanager
def serving(home: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a server; gives the URL of its data port. What fails meanwhile is told with its log."""
    port, control = _free_port(), _free_port()
    log = home / "up.log"
    command = [*_CLI, "up", "--home", str(home), "--http-port", str(port)]
    command += ["--control-port", str(control)]
    with log.open("w") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: httpx.get(f"{url}/v2/health/live").is_success)
        yield url
    except Exception as error:
        raise RuntimeError(f"{error}\n{log.read_text()[-_LOG_TAIL:]}") from error
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(_TIMEOUT_S)


def salver(home: Path, *arguments: str) -> str:
    """Run one command, which must succeed; returns what it printed."""
    done = _run(home, *arguments)
    if done.returncode:
        raise RuntimeError(f"salver {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def refused(home: Path, *arguments: str) -> str:
    """Run one command, which must fail; returns what it said."""
    done = _run(home, *arguments)
    assert done.returncode, "it was not refused"
    return (done.stdout + done.stderr).strip()[-400:]


def until(is_done: Callable[[], bool]) -> None:
    """Wait until something holds; a server that does not answer is asked again."""
    end, last = time.perf_counter() + _TIMEOUT_S, ""
    while time.perf_counter() < end:
        try:
            if is_done():
                return
        except httpx.HTTPError as error:
            last = str(error)
        time.sleep(0.02)
    raise TimeoutError(f"not within {_TIMEOUT_S:.0f} s: {last}")


def body(url: str, name: str, rows: int) -> bytes:
    """Return a request of random rows for a model with one FP32 input, its head's size in front."""
    (spec,) = httpx.get(f"{url}/v2/models/{name}").json()["inputs"]
    shape = [rows, *(size if size > 0 else 1 for size in spec["shape"][1:])]
    data = np.random.default_rng(1).random(shape, np.float32).tobytes()
    size = {"binary_data_size": len(data)}
    tensor = {"name": spec["name"], "datatype": "FP32", "shape": shape, "parameters": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    return len(head).to_bytes(8) + head + data


def ask(url: str, name: str, request: bytes, client: httpx.Client | None = None) -> Any:
    """Send what ``body`` made; returns the numbers of the first output."""
    head, sender = int.from_bytes(request[:8]), client or httpx
    answer = sender.post(
        f"{url}/v2/models/{name}/infer",
        content=request[8:],
        headers={"Inference-Header-Content-Length": str(head)},
        timeout=_TIMEOUT_S,
    )
    answer.raise_for_status()
    return np.array(answer.json()["outputs"][0]["data"], np.float64)


def _run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*_CLI, *arguments, "--home", str(home)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
