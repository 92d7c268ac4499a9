"""What a service manager is told, over a socket as it has one."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from salver.scale.local.notify import READY, STOPPING, Notifier

PID = 77
_PATIENCE_S = 60.0


@pytest.fixture(params=["path", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Give the socket of a service manager."""
    name = {"path": str(tmp_path / "notify"), "abstract": f"\0salver-test-{os.getpid()}"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name[request.param])
        listening.settimeout(_PATIENCE_S)
        yield listening


def variables(manager: socket.socket, **others: str) -> dict[str, str]:
    """Return the environment that such a manager gives."""
    name = manager.getsockname()
    return {"NOTIFY_SOCKET": f"@{name[1:].decode()}" if isinstance(name, bytes) else name, **others}


def during(notifier: Notifier, body: Callable[[], Awaitable[object]]) -> None:
    """Carry out a test while a notifier runs."""

    async def carry_out() -> None:
        notifier.provision()
        notifier.start()
        try:
            await body()
        finally:
            await notifier.stop()

    asyncio.run(carry_out())


async def heard(manager: socket.socket) -> str:
    """Return the next datagram."""
    return (await asyncio.to_thread(manager.recv, 4096)).decode()


def is_silent(manager: socket.socket) -> bool:
    """Tell whether there is no datagram at present."""
    manager.setblocking(False)
    try:
        manager.recv(4096)
    except BlockingIOError:
        return True
    finally:
        manager.settimeout(_PATIENCE_S)
    return False


def test_a_state_and_its_status_arrive_together(manager: socket.socket) -> None:
    """A status is one line, whatever is in it: a line of its own would be another state."""

    async def body() -> None:
        notifier.tell(READY, "port 1")
        assert await heard(manager) == "READY=1\nSTATUS=port 1"
        notifier.tell(STOPPING, "cannot\nMAINPID=1 begin " + 1000 * "x")
        told = await heard(manager)
        assert told.startswith("STOPPING=1\nSTATUS=cannot MAINPID=1 begin x")
        assert len(told) < 600

    notifier = Notifier(variables(manager), PID)
    during(notifier, body)


@pytest.mark.parametrize("own", [{}, {"WATCHDOG_PID": str(PID)}])
def test_signs_of_life_come_again_and_again(manager: socket.socket, own: dict[str, str]) -> None:
    """From the loop: while that does not come round there is none."""

    async def body() -> None:
        for _ in range(3):
            assert await heard(manager) == "WATCHDOG=1"
        while not is_silent(manager):
            pass
        # What the loop does not come back to cannot ping.
        with pytest.raises(TimeoutError):
            manager.settimeout(0.2)
            manager.recv(4096)
        manager.settimeout(_PATIENCE_S)
        assert await heard(manager) == "WATCHDOG=1"

    during(Notifier(variables(manager, WATCHDOG_USEC="50000", **own), PID), body)


@pytest.mark.parametrize(
    "others",
    [
        {}, {"WATCHDOG_USEC": "50000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "-5"}, {"WATCHDOG_USEC": "soon"},
    ],
)  # fmt: skip
def test_who_is_not_watched_gives_no_signs(manager: socket.socket, others: dict[str, str]) -> None:
    """Nor where another process is meant, or no time is given."""

    async def body() -> None:
        await asyncio.sleep(0.1)
        assert is_silent(manager)

    during(Notifier(variables(manager, **others), PID), body)


def test_children_get_none_of_it(manager: socket.socket) -> None:
    """The variables are gone before anything is started, and all others stay."""
    environment = variables(manager, WATCHDOG_USEC="50000", WATCHDOG_PID="1", PATH="/bin")

    async def body() -> None:
        assert environment == {"PATH": "/bin"}

    during(Notifier(environment, PID), body)


def test_a_manager_that_takes_nothing_is_told_later(manager: socket.socket) -> None:
    """Nobody waits for it meanwhile, and no state is lost."""

    async def body() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crowd:
            crowd.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    crowd.sendto(b"x", manager.getsockname())
        notifier.tell(READY, "up")
        notifier.tell(STOPPING, "stopping")
        while (told := await heard(manager)) == "x":
            pass
        assert told == "READY=1\nSTATUS=up\nSTOPPING=1\nSTATUS=stopping"

    notifier = Notifier(variables(manager), PID)
    during(notifier, body)


@pytest.mark.parametrize("address", ["", "@", "/", "vsock:2:1", "relative", "/" + 200 * "x"])
def test_a_manager_that_is_not_there(address: str) -> None:
    """Whatever the variable holds, the server goes on."""

    async def body() -> None:
        notifier.tell(READY, "up")
        await asyncio.sleep(0.05)
        notifier.tell(STOPPING, "stopping")

    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"}, PID)
    during(notifier, body)


def test_a_manager_that_comes_back_is_told(tmp_path: Path) -> None:
    """It may open its socket anew at any time."""

    async def body() -> None:
        notifier.tell(READY, "up")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(_PATIENCE_S)
            assert await heard(manager) == "READY=1\nSTATUS=up"

    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, PID)
    during(notifier, body)
