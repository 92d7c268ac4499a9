"""Looks host names up, and says which of their addresses may be connected to."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

from salver.core.errors import WebhookNotAllowed
from salver.core.webhooks import NETWORKS_SETTING, Address, AllowList, Target, address_in

Resolve = Callable[[str, int], Awaitable[list[str]]]

MAX_ADDRESSES = 16
_MAX_LOOK_UPS = 16


class Resolver:
    """Asks the machine's own resolver, each name once at a time.

    The look-ups have threads of their own: one that hangs holds up neither other hosts nor
    the end of the process.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return a name's addresses; raises ``OSError`` for one that has none."""
        key = (host, port)
        known = self._running.get(key)
        if known is None:
            if len(self._running) >= _MAX_LOOK_UPS:
                raise OSError(f"{_MAX_LOOK_UPS} names are looked up already")
            known = self._running[key] = asyncio.get_running_loop().create_future()
            known.add_done_callback(lambda _done: self._running.pop(key, None))
            thread = threading.Thread(target=_look_up, args=(host, port, known), daemon=True)
            thread.start()
        return await asyncio.shield(known)


def _look_up(host: str, port: int, found: asyncio.Future[list[str]]) -> None:
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        outcome: list[str] | OSError = list(dict.fromkeys(str(row[4][0]) for row in rows))
    except UnicodeError as error:
        outcome = OSError(f"no name: {error}")
    except OSError as error:
        outcome = error
    loop = found.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_tell, found, outcome)


def _tell(found: asyncio.Future[list[str]], outcome: list[str] | OSError) -> None:
    if found.done():
        return
    if isinstance(outcome, OSError):
        found.set_exception(outcome)
        found.exception()  # whoever waited may have left
    else:
        found.set_result(outcome)


async def permitted(target: Target, allowed: AllowList, resolve: Resolve) -> list[Address]:
    """Return the addresses of a host, all of which may be connected to.

    One that may not makes all of them suspect. Raises ``WebhookNotAllowed`` for it, and
    ``OSError`` when there are none.
    """
    texts = [target.host]
    if address_in(target.host) is None:
        texts = (await resolve(target.host, target.port))[:MAX_ADDRESSES]
    addresses = [address for text in texts if (address := address_in(text)) is not None]
    if not addresses:
        raise OSError(f"{target.host} has no address")
    for address in addresses:
        if not allowed.may_reach(address, target):
            raise WebhookNotAllowed(
                f"{target.host} leads to {address}, which is not public; if that is meant, add its "
                f"network to {NETWORKS_SETTING} and restart the server"
            )
    return addresses
