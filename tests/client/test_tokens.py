"""Which control API is sent which token."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from salver.client.aio import AsyncClient
from salver.client.connection import DEFAULT_CONTROL_URL, DEFAULT_DATA_URL, find_addresses
from salver.client.sync import Client
from salver.core.errors import ControlUnavailable, NotReady, Unauthenticated
from salver.core.presence import announce
from tests.e2e.server import wait_until

VARIABLE = "SALVER_CONTROL_TOKEN"
Asks = Callable[[Path, str | None], None]


class Stranger(ThreadingHTTPServer):
    """A server that answers everything and keeps the secrets that it was sent."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Answer)
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
    (tmp_path / "run").mkdir()
    says(tmp_path, "http://127.0.0.1:9")
    return tmp_path


def says(home: Path, url: str, name: str = "supervisor.json") -> int:
    """Let a home say where its control is, as long as this process lives."""
    key = "url" if name == "control.json" else "control_url"
    return announce(home / "run" / name, {key: url, "http_url": url})


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


def predict(home: Path, url: str | None) -> None:
    """Ask the data port, with a key."""
    with Client(url, home=home, api_key="key") as client:
        client.predict("e", {"x": np.zeros((1, 2), np.float32)})


def predict_awaited(home: Path, url: str | None) -> None:
    """Ask the data port, asynchronously, with a key."""

    async def body() -> None:
        async with AsyncClient(url, home=home, api_key="key") as client:
            await client.predict("e", {"x": np.zeros((1, 2), np.float32)})

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
    says(home, stranger.url, name)
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


ENDED = [
    (ask, ControlUnavailable), (ask_awaited, ControlUnavailable), (predict, NotReady),
    (predict_awaited, NotReady), (report, NotReady),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind"), ENDED)
@pytest.mark.parametrize("name", ["supervisor.json", "control.json"])
def test_a_server_that_was_killed_is_asked_nothing(
    home: Path, stranger: Stranger, call: Asks, kind: type[Exception], name: str
) -> None:
    """Its files stay, and at its ports may be anybody; what to do instead is said."""
    (home / "run" / "supervisor.json").unlink()
    os.close(says(home, stranger.url, name))
    with pytest.raises(kind, match=f"nothing runs from {home} here; start it with 'salver up"):
        call(home, None)
    assert stranger.secrets == []


@pytest.mark.parametrize(("call", "kind"), ENDED)
def test_a_server_that_was_stopped_is_not_looked_for_at_the_default_ports(
    home: Path, call: Asks, kind: type[Exception]
) -> None:
    """It took its files away, so that its home names nobody."""
    (home / "run" / "supervisor.json").unlink()
    with pytest.raises(kind, match="nothing runs from"):
        call(home, None)


def test_an_address_that_is_given_needs_no_server_in_the_home(home: Path) -> None:
    """Where only one of the two is given, the other one is not made up."""
    (home / "run" / "supervisor.json").unlink()
    found = find_addresses(home, data_url="http://127.0.0.1:9/")
    assert (found.data_url, found.control_url) == ("http://127.0.0.1:9", "")
    found = find_addresses(home, control_url="http://127.0.0.1:9")
    assert (found.data_url, found.control_url) == ("", "http://127.0.0.1:9")


def test_a_home_that_never_had_a_server_means_one_at_the_default_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that only has clients, with a token that was given."""
    monkeypatch.setenv(VARIABLE, "given")
    found = find_addresses(tmp_path / "none")
    assert (found.data_url, found.control_url) == (DEFAULT_DATA_URL, DEFAULT_CONTROL_URL)
    assert (found.token, found.unknown) == ("given", "")


def test_control_that_outlives_its_supervisor_is_asked(home: Path, stranger: Stranger) -> None:
    """While it still answers, it is the home's; the data port, which it does not have, is not."""
    os.close(says(home, "http://127.0.0.1:9"))
    says(home, stranger.url, "control.json")
    ask(home, None)
    assert stranger.secrets == ["Bearer of-this-home"]
    with pytest.raises(NotReady):
        predict(home, None)


def test_a_home_of_another_user_says_so(home: Path) -> None:
    """What may not be read is not taken for a server that has ended."""
    (home / "run" / "supervisor.json").chmod(0)
    script = (
        "import os, sys; from pathlib import Path; "
        "from salver.client.connection import find_addresses; "
        "os.setuid(65534) if os.getuid() == 0 else None; "
        "print(find_addresses(Path(sys.argv[1])))"
    )
    for folder in (home, *home.parents[:2]):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", script, str(home)], capture_output=True, check=True, text=True
    )
    assert "cannot be read (Permission denied); run this as the user who started" in done.stdout


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
