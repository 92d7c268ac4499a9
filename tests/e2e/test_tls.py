"""TLS on the data ports of a whole server, from the command line and the Python client."""

import asyncio
import json
import os
import ssl
import subprocess
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest

from salver.client.aio import AsyncClient
from salver.client.sync import Client
from salver.core.errors import InvalidSettings, NotReady
from tests.certificates import Authority
from tests.e2e.server import SALVER, Server, run, wait_until
from tests.gateway.grpc.calls import infer, infer_request, outputs_of

ROWS = np.array([[4.0]], np.float32)


def test_a_journey(tmp_path: Path) -> None:
    """Predict, both clients and gRPC get answers; a new certificate is taken while serving."""
    authority = Authority(tmp_path)
    own = authority.issue("first", file="own")
    files = ("--tls-cert", str(own.certificate), "--tls-key", str(own.key))
    ca = str(authority.file)
    with Server(tmp_path / "home", *files) as server:
        server.deploy_scaled(tmp_path)
        url = str(server.state()["http_url"])
        assert url.startswith("https://")
        assert json.loads(server.ok("status", "-o", "json"))["http_url"] == url

        predict = ("scaled", "-", "-o", "json")
        assert '"y": 8' in server.ok("predict", *predict, "--ca", ca, stdin=b"[[4]]")
        untrusted = server.salver("predict", *predict, stdin=b"[[4]]")
        assert untrusted.returncode == 1
        assert b"--ca" in untrusted.stderr
        assert b"[invalid_settings]" in untrusted.stderr

        with Client(home=server.home, ca=authority.file) as client:
            assert client.predict("scaled", ROWS).outputs["y"].tolist() == [[8.0]]
        assert asyncio.run(ask_async(server, authority)) == [[8.0]]
        with Client(home=server.home) as client, pytest.raises(InvalidSettings, match="SALVER_CA"):
            client.predict("scaled", ROWS)
        with grpc.secure_channel(
            server.grpc_target, grpc.ssl_channel_credentials(authority.file.read_bytes())
        ) as channel:
            answer = infer(channel, infer_request("scaled", {"x": ROWS}))
            assert outputs_of(answer)["y"].tolist() == [[8.0]]

        host, port = "127.0.0.1", server.port
        before = ssl.get_server_certificate((host, port))
        authority.issue("second", file="own")
        wait_until(lambda: ssl.get_server_certificate((host, port)) != before, "it is taken over")
        context = authority.client()
        with urllib.request.urlopen(f"{url}/v2/health/live", context=context) as response:
            assert response.status == 200


async def ask_async(server: Server, authority: Authority) -> object:
    """Ask with the asynchronous client."""
    async with AsyncClient(home=server.home, ca=authority.file) as client:
        return (await client.predict("scaled", ROWS)).outputs["y"].tolist()


def test_client_certificates(tmp_path: Path) -> None:
    """Where clients must show certificates, an open address needs no keys.

    The command line shows the one of SALVER_CLIENT_CERT; who shows none is told of it.
    """
    authority = Authority(tmp_path)
    own, alice = authority.issue("server"), authority.issue("alice")
    both = tmp_path / "alice.pem"
    both.write_bytes(alice.certificate.read_bytes() + alice.key.read_bytes())
    options = (
        "--http-host", "0.0.0.0", "--tls-cert", str(own.certificate), "--tls-key", str(own.key),
        "--tls-client-ca", str(authority.file),
    )  # fmt: skip
    with Server(tmp_path / "home", *options) as server:
        server.deploy_scaled(tmp_path)
        arguments = (
            str(SALVER), "predict", "scaled", "-", "--home", str(server.home), "-o", "json",
        )  # fmt: skip
        trusting = {**os.environ, "SALVER_CA": str(authority.file)}
        done = subprocess.run(
            arguments,
            input=b"[[4]]",
            capture_output=True,
            check=False,
            timeout=60,
            env={**trusting, "SALVER_CLIENT_CERT": str(both)},
        )
        assert b'"y": 8' in done.stdout, done.stderr
        with (
            Client(home=server.home, ca=authority.file) as client,
            pytest.raises(NotReady, match="SALVER_CLIENT_CERT"),
        ):
            client.predict("scaled", ROWS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tls-cert", "{certificate}", "--tls-key", "{other_key}"), "is not the key of"),
        (("--tls-cert", "{expired}", "--tls-key", "{expired_key}"), "has expired"),
        (("--tls-cert", "{certificate}"), "--tls-key is missing"),
        (("--tls-cert", "none.pem", "--tls-key", "{other_key}"), "none.pem cannot be read"),
    ],
)
def test_bad_files_start_nothing(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    """One line with the code names what is wrong, and nothing runs afterwards."""
    authority = Authority(tmp_path)
    good, other, old = authority.issue("a"), authority.issue("b"), authority.issue("c", days=-1)
    names = {
        "certificate": good.certificate,
        "other_key": other.key,
        "expired": old.certificate,
        "expired_key": old.key,
    }
    home = tmp_path / "home"
    filled = [option.format(**names) for option in options]
    done = run("up", "--home", str(home), "--http-port", "0", "--control-port", "0", *filled)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert words in line
    assert line.endswith("[invalid_settings]")
    assert not (home / "run" / "supervisor.json").exists()
