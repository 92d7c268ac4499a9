"""Keys for the data port: made, asked for, limited."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server, ask, run, wait_until

OPEN = ("--http-host", "0.0.0.0")
# All of 127/8 is this machine, but a listener of 127.0.0.1 does not hear the rest of it.
ANOTHER_ADDRESS = "127.0.0.2"


def new_key(file: Path, *options: str) -> str:
    """Make a key, append its entry to a file as the help says, and return it."""
    done = run("key", "new", *options)
    assert done.returncode == 0, done.stderr
    with file.open("ab") as entries:
        entries.write(done.stdout)
    (line,) = [text for text in done.stderr.decode().splitlines() if text.startswith("key")]
    return line.rpartition(" ")[2]


class Guarded:
    """A server that asks for keys, with one key for everything and one for another endpoint."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.yaml"
        self.file.write_text("keys:\n")
        self.key = new_key(self.file, "--principal", "alice")
        self.limited = new_key(self.file, "--principal", "bob", "--endpoints", "other,third")
        self.server = Server(folder / "home", *OPEN, "--api-keys", str(self.file))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Give a server with keys and a model, open to other machines."""
    folder = tmp_path_factory.mktemp("guarded")
    made = Guarded(folder)
    with made.server as server:
        server.deploy_scaled(folder)
        yield made


def live(port: int) -> int:
    """Ask another address of this machine whether the server lives; returns the status."""
    connection = http.client.HTTPConnection(ANOTHER_ADDRESS, port, timeout=60)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("sent", [(), ("--api-key", "guess")], ids=["none", "unknown"])
def test_without_a_known_key_there_is_no_answer(guarded: Guarded, sent: tuple[str, ...]) -> None:
    """predict ends with 1 and says unauthenticated without a key and with an unknown one."""
    done = guarded.server.salver("predict", "scaled", "-", *sent, stdin=b"[[4]]")
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"[unauthenticated]" in done.stderr


def test_a_key_opens(guarded: Guarded) -> None:
    """predict with a key of the file prints the answer."""
    arguments = ("scaled", "-", "--api-key", guarded.key, "-o", "json")
    assert '"y": 8' in guarded.server.ok("predict", *arguments, stdin=b"[[4]]")


def test_a_limited_key_opens_only_its_endpoints(guarded: Guarded) -> None:
    """A key for other endpoints is refused as forbidden, not as unknown."""
    arguments = ("scaled", "-", "--api-key", guarded.limited)
    done = guarded.server.salver("predict", *arguments, stdin=b"[[4]]")
    assert done.returncode == 1
    assert b"[forbidden]" in done.stderr
    status, document = ask(guarded.server.port, "scaled", 4.0, {"X-API-Key": guarded.limited})
    assert (status, document["code"]) == (403, "forbidden")


def test_keys_in_both_headers(guarded: Guarded) -> None:
    """X-API-Key and Authorization: Bearer both carry a key; without one the answer is 401."""
    port = guarded.server.port
    for headers in (
        {"X-API-Key": guarded.key},
        {"Authorization": f"Bearer {guarded.key}"},
        {"authorization": f"bearer {guarded.key}"},
    ):
        status, document = ask(port, "scaled", 4.0, headers)
        assert status == 200
        assert document["outputs"][0]["data"] == [8.0]
    for headers in ({}, {"X-API-Key": guarded.key[:-1]}, {"Authorization": "Bearer "}):
        status, document = ask(port, "scaled", 4.0, headers)
        assert (status, document["code"]) == (401, "unauthenticated")


def test_a_key_added_while_serving_opens(guarded: Guarded) -> None:
    """A key appended to the file is known without a restart, and keys before it stay known."""
    late = new_key(guarded.file, "--principal", "carol", "--endpoints", "scaled")
    port = guarded.server.port
    wait_until(lambda: ask(port, "scaled", 4.0, {"X-API-Key": late})[0] == 200, "it is known")
    assert ask(port, "scaled", 4.0, {"X-API-Key": guarded.key})[0] == 200


def test_the_file_holds_no_key(guarded: Guarded) -> None:
    """What stands in the file is a hash, with which nobody gets in."""
    text = guarded.file.read_text()
    assert guarded.key not in text
    digest = text.split('"sha256":"')[1][:64]
    assert ask(guarded.server.port, "scaled", 4.0, {"X-API-Key": digest})[0] == 401


def test_with_keys_other_machines_may_reach_it(guarded: Guarded) -> None:
    """With --api-keys the server starts on an address that others can reach, and hears there."""
    assert live(guarded.server.port) == 200


def test_everybody_may_reach_it_if_that_is_said(home: Path) -> None:
    """With --allow-anonymous it starts there without keys."""
    with Server(home, *OPEN, "--allow-anonymous") as server:
        assert live(server.port) == 200


def test_a_file_of_keys_that_is_missing(home: Path) -> None:
    """A file that does not exist is named, and nothing starts."""
    done = run("up", "--home", str(home), "--http-port", "0", "--api-keys", str(home / "none"))
    assert done.returncode == 1
    assert b"[invalid_settings]" in done.stderr
    assert b"--api-keys" in done.stderr
