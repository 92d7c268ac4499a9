"""Which control API is sent which token."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from salver.client.aio import AsyncClient
from salver.client.connection import find_addresses
from salver.client.sync import Client
from salver.core.errors import Unauthenticated
from tests.e2e.server import wait_until

VARIABLE = "SALVER_CONTROL_TOKEN"
Asks = Callable[[Path, str | None], None]


class Stranger(ThreadingHTTPServer):
    """A server that answers everything and keeps the secrets that it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.secrets: list[str | None] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """Answers with an empty document."""

    server: Stranger

    def do_GET(self) -> None:
        """Keep the secret."""
        self.server.secrets.append(self.headers["authorization"])
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        """Keep the secret."""
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """Give a server that is nobody's control."""
    with Stranger() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home whose server says that its control is at port 9."""
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "control.token").write_text("of-this-home")
    says(tmp_path, "http://127.0.0.1:9")
    return tmp_path


def says(home: Path, url: str) -> None:
    """Let a home say where its control is."""
    (home / "run").mkdir(exist_ok=True)
    (home / "run" / "supervisor.json").write_text(json.dumps({"control_url": url}))


def ask(home: Path, url: str | None) -> None:
    """Ask the control API, synchronously."""
    with Client(home=home, control_url=url) as client:
        client.status()


def ask_awaited(home: Path, url: str | None) -> None:
    """Ask the control API, asynchronously."""

    async def body() -> None:
        async with AsyncClient(home=home, control_url=url) as client:
            await client.status()

    asyncio.run(body())


def report(home: Path, url: str | None) -> None:
    """Report an outcome to the control API."""
    with Client(home=home, control_url=url) as client:
        client.feedback("e", "0" * 40, 1.0)


@pytest.mark.parametrize("call", [ask, ask_awaited, report])
def test_another_address_never_gets_the_token_of_the_home(
    home: Path, stranger: Stranger, call: Asks
) -> None:
    """It is not asked at all, and the error names what would help."""
    with pytest.raises(Unauthenticated, match=VARIABLE) as refused:
        call(home, stranger.url)
    assert stranger.url in refused.value.message
    assert "of-this-home" not in refused.value.message
    (home / "run" / "supervisor.json").unlink()
    with pytest.raises(Unauthenticated, match=VARIABLE):
        call(home, stranger.url)
    assert stranger.secrets == []


@pytest.mark.parametrize("call", [ask, ask_awaited])
def test_another_address_gets_the_token_that_is_given(
    home: Path, stranger: Stranger, call: Asks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of the environment, which the home's own control is not sent."""
    monkeypatch.setenv(VARIABLE, "given")
    call(home, stranger.url)
    assert stranger.secrets == ["Bearer given"]
    says(home, stranger.url)
    call(home, stranger.url)
    assert stranger.secrets[1:] == ["Bearer of-this-home"]


@pytest.mark.parametrize("call", [ask, ask_awaited])
@pytest.mark.parametrize("name", ["supervisor.json", "control.json"])
def test_the_homes_own_control_gets_its_token(
    home: Path, stranger: Stranger, call: Asks, name: str
) -> None:
    """However its address is come by, also of a control that runs without a supervisor."""
    (home / "run" / "supervisor.json").unlink()
    key = "url" if name == "control.json" else "control_url"
    (home / "run" / name).write_text(json.dumps({key: stranger.url}))
    local = stranger.url.replace("127.0.0.1", "localhost")
    for url in (None, stranger.url, stranger.url + "/", local):
        call(home, url)
    assert stranger.secrets == ["Bearer of-this-home"] * 4


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8090.example.org", "http://127.0.0.1:8090@example.org",
        "http://example.org/#http://127.0.0.1:8090", "http://example.org//localhost:8090",
        "https://127.0.0.1:8090", "http://[::1]:8090", "http://127.0.0.1", "http://127.0.0.1:80900",
    ],
)  # fmt: skip
def test_addresses_that_only_look_like_it(home: Path, url: str) -> None:
    """The same port of another host, and what merely holds the address, are others."""
    says(home, "http://127.0.0.1:8090")
    found = find_addresses(home, control_url=url)
    assert (found.token, found.withheld) == ("", home)


def test_a_home_without_a_server_sends_its_token_to_nobody(home: Path) -> None:
    """Whoever listens at the default port may be anybody."""
    (home / "run" / "supervisor.json").unlink()
    assert find_addresses(home).token == ""


def test_a_control_that_has_ended_gets_it_no_more(tmp_path: Path) -> None:
    """Whoever listens where it was may be anybody."""
    command = [sys.executable, "-m", "salver.control", "--home", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command) as control:
        try:
            wait_until(lambda: find_addresses(tmp_path).token != "", "control")
        finally:
            control.terminate()
    assert find_addresses(tmp_path).token == ""
