"""A process behind a door: greets one connection and leaves, or crashes."""

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path

from salver.wire.attempts import Attempts, write
from salver.wire.connection import Connection
from salver.wire.framing import Buffer
from salver.wire.messages import PROTOCOL_VERSION, Hello, Message, Snapshot
from salver.wire.transport import listen


class Guest:
    """Receiver of the one link."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def accept(self, connection: Connection) -> "Guest":
        """Say one thing and close."""
        connection.send(Snapshot(0, 0, os.getpid(), "ready", 0))
        asyncio.get_running_loop().call_soon(connection.close)
        return self

    def on_message(self, message: Message, payload: Buffer) -> None:
        """Take nothing."""

    def on_lost(self, error: Exception | None) -> None:
        """Leave."""
        del error
        self.over.set()


async def serve(door: socket.socket) -> None:
    """Greet one connection."""
    guest = Guest()
    hello = Hello(PROTOCOL_VERSION, "worker", "own", str(os.getpid()))
    address = f"unix:{door.getsockname()}"
    listener = await listen(address, hello, guest.accept, door=door)
    await guest.over.wait()
    await listener.close()


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode")
    parser.add_argument("--listen-fd", type=int)
    parser.add_argument("--woken-ns", type=int)
    options = parser.parse_args()
    door = socket.socket(fileno=options.listen_fd)
    mark = Path(f"{door.getsockname()}.crashed")
    if options.mode == "crash" or (options.mode == "crash-once" and not mark.exists()):
        mark.touch()
        sys.exit(3)
    if options.mode == "exit-once" and not mark.exists():
        mark.touch()
        write(mark.parent, "own", Attempts(going_on=("load",)))
        sys.exit(0)
    asyncio.run(serve(door))


if __name__ == "__main__":
    main()
