"""What both clients make of keys and addresses that cannot be, and of a close."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.client.aio import AsyncClient
from salver.client.sync import Client
from salver.core.errors import InvalidSettings
from salver.core.presence import announce
from tests.load.server import OK, Server

Asks = Callable[..., None]
INPUTS = {"x": np.zeros((1, 2), np.float32)}


def predict(**settings: Any) -> None:
    """Ask for a prediction, synchronously."""
    with Client(**settings) as client:
        client.predict("e", INPUTS)


def predict_awaited(**settings: Any) -> None:
    """Ask for a prediction, asynchronously."""

    async def body() -> None:
        async with AsyncClient(**settings) as client:
            await client.predict("e", INPUTS)

    asyncio.run(body())


def status(**settings: Any) -> None:
    """Ask the control API, synchronously."""
    with Client(**settings) as client:
        client.status()


def status_awaited(**settings: Any) -> None:
    """Ask the control API, asynchronously."""

    async def body() -> None:
        async with AsyncClient(**settings) as client:
            await client.status()

    asyncio.run(body())


@pytest.mark.parametrize("ask", [predict, predict_awaited])
@pytest.mark.parametrize("key", ["secret-9f2c\nx", "secret-9f2c\n", " secret-9f2c", "secret-9f2cé"])
def test_a_key_that_no_header_can_hold(tmp_path: Path, ask: Asks, key: str) -> None:
    """It is refused as a setting before anything is sent, and not shown."""
    with pytest.raises(InvalidSettings, match="--api-key") as refused:
        ask(home=tmp_path, api_key=key)
    assert "9f2c" not in str(refused.value)


@pytest.mark.parametrize("ask", [status, status_awaited])
def test_a_token_that_no_header_can_hold(tmp_path: Path, ask: Asks) -> None:
    """The control token of a home is held to the same."""
    (tmp_path / "control.token").write_text("secret-9f2c\nx\n")
    (tmp_path / "run").mkdir()
    announce(tmp_path / "run" / "control.json", {"url": "http://127.0.0.1:9"})
    with pytest.raises(InvalidSettings, match="token") as refused:
        ask(home=tmp_path)
    assert "9f2c" not in str(refused.value)


@pytest.mark.parametrize(
    ("ask", "option"),
    [
        (predict, "data_url"),
        (predict_awaited, "data_url"),
        (status, "control_url"),
        (status_awaited, "control_url"),
    ],
)
@pytest.mark.parametrize("url", ["http://localhost:80a", "http://a..b", "localhost", "ftp://x"])
def test_an_address_that_cannot_be(tmp_path: Path, ask: Asks, option: str, url: str) -> None:
    """It is shown, with how one is written."""
    with pytest.raises(InvalidSettings, match="is no address") as refused:
        ask(home=tmp_path, **{option: url})
    assert repr(url) in refused.value.message


def awaited(tmp_path: Path, body: Callable[[AsyncClient, Server], Any]) -> None:
    """Carry out a test with a client that has a connection to a real server."""

    async def answer(_number: int) -> bytes:
        return OK

    async def carry_out() -> None:
        async with Server(answer) as server:
            url = f"http://127.0.0.1:{server.target.port}"
            async with AsyncClient(control_url=url, home=tmp_path) as client:
                assert await client.stop_shadow("e") == {}
                await body(client, server)
            assert client._http is None

    asyncio.run(carry_out())


def test_who_asks_while_a_client_closes(tmp_path: Path) -> None:
    """A call that begins before the close is done opens a new connection and is answered."""

    async def body(client: AsyncClient, server: Server) -> None:
        old = client._http
        _, answer = await asyncio.gather(client.close(), client.stop_shadow("e"))
        assert answer == {}
        assert client._http is not old
        assert server.arrived == 2

    awaited(tmp_path, body)


def test_who_asks_after_a_close_that_was_cancelled(tmp_path: Path) -> None:
    """A client that is half closed is forgotten: the next call opens a new connection."""

    async def body(client: AsyncClient, server: Server) -> None:
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        assert await client.stop_shadow("e") == {}
        assert server.arrived == 2

    awaited(tmp_path, body)


def test_who_asks_after_a_close(tmp_path: Path) -> None:
    """A closed client may be used again, and closed twice."""

    async def body(client: AsyncClient, server: Server) -> None:
        await client.close()
        await client.close()
        assert await client.stop_shadow("e") == {}
        assert server.arrived == 2

    awaited(tmp_path, body)
