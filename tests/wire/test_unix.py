"""Unix sockets whose paths are longer than their addresses have room for."""

import os
from pathlib import Path

import pytest
import uvloop

from salver.core.errors import WireError
from salver.wire.messages import Cancel
from salver.wire.transport import connect, listen
from salver.wire.unix import MAX_PATH_BYTES, listening, reachable
from tests.wire.links import Inbox, hello, pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder whose path alone is too long."""
    folder = tmp_path / ("a" * 120) / ("b" * 200)
    folder.mkdir(parents=True)
    return folder


def is_open(folder: Path) -> bool:
    """Tell whether this process has a folder open."""
    links = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    return folder in [link.readlink() for link in links if link.is_symlink()]


def test_messages_travel_over_a_long_path(folder: Path) -> None:
    """A link opens as over a short one, its socket is private, and no folder stays open."""
    path = folder / "worker-a.sock"

    async def run() -> None:
        async with pair(f"unix:{path}") as (there, _, connection):
            assert path.stat().st_mode & 0o777 == 0o600
            connection.send(Cancel(1), [bytes(100_000)])
            await there.until_messages(1)
        assert not path.exists()

    uvloop.run(run())
    assert not is_open(folder)
    with reachable(path):
        assert is_open(folder)


def test_nobody_at_a_long_path(folder: Path) -> None:
    """An absent socket, or an absent folder, is as far away as one with a short path."""

    async def run() -> None:
        for path in (folder / "nobody.sock", folder / "nothing" / "nobody.sock"):
            with pytest.raises(WireError, match="does not answer"):
                await connect(f"unix:{path}", hello("gateway"), Inbox().accept, 1.0)

    uvloop.run(run())


def test_a_successor_takes_a_long_path_over(folder: Path) -> None:
    """Listening again works where a socket was left behind."""
    path = folder / "control.sock"
    listening(path, 1).close()

    async def run() -> None:
        listener = await listen(f"unix:{path}", hello("control"), Inbox().accept)
        await listener.close()

    uvloop.run(run())


def test_a_path_that_fits_is_used_as_it_is(tmp_path: Path) -> None:
    """Only what is one byte too long takes the way round."""
    fits = Path("/" + "a" * (MAX_PATH_BYTES - 1))
    with reachable(fits) as name:
        assert name == str(fits)
    longer = tmp_path / ("é" * MAX_PATH_BYTES)
    with reachable(longer) as name:
        assert name.startswith("/proc/self/fd/")
