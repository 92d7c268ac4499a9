"""`python -m salver.engine`: one worker process."""

import argparse
import asyncio
import os
import secrets
import signal
import socket
from pathlib import Path

import uvloop

from salver.core.clock import SystemClock
from salver.core.errors import InvalidSettings
from salver.core.exits import give_up
from salver.core.garbage import settle
from salver.core.settings import Settings
from salver.core.settings_file import read_settings
from salver.engine.memory import uninitialised
from salver.engine.worker.app import Worker, WorkerIdentity
from salver.engine.worker.limits import join_groups
from salver.engine.worker.loader import loader_of
from salver.observe.logs import configure_logs
from salver.wire.copies import Copies
from salver.wire.transport import LinkOptions, TlsFiles

_LEAVE_TIMEOUT_S = 5.0


def main(arguments: list[str] | None = None) -> None:
    """Run a worker until it is told to stop."""
    options = _parse(arguments)
    try:
        _run(options)
    except InvalidSettings as error:
        give_up(error)


def _run(options: argparse.Namespace) -> None:
    home = Path(options.home)
    settings = read_settings(home)
    configure_logs(settings.observe.log_level, process=options.id, pid=os.getpid())
    join_groups(options.group)
    token = Path(options.token_file).read_text().strip() if options.token_file else ""
    address = options.address or f"unix:{home / 'run' / f'worker-{options.id}.sock'}"
    door = None if options.listen_fd is None else socket.socket(fileno=options.listen_fd)
    if door is not None:
        # Inherited by this process, and by none that it starts.
        door.set_inheritable(False)
    identity = WorkerIdentity(
        options.id,
        secrets.token_hex(8),
        address,
        home,
        token,
        door,
        options.woken_ns,
        options.last_end,
    )
    uvloop.run(_serve(identity, settings, _tls(options)))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="salver worker", description=__doc__)
    parser.add_argument("--id", required=True, help="identity of this worker in the plan")
    parser.add_argument("--home", required=True, help="folder of the server's state")
    parser.add_argument("--address", help="unix:PATH or tcp://HOST:PORT [run/worker-ID.sock]")
    parser.add_argument("--listen-fd", type=int, help="inherited socket that listens there")
    parser.add_argument("--woken-ns", type=int, default=0, help="when somebody asked for it")
    parser.add_argument("--last-end", default="", help="how the last process of this id ended")
    parser.add_argument("--group", type=Path, action="append", default=[], help="where to belong")
    parser.add_argument("--token-file", help="file with the token that gateways must send")
    parser.add_argument("--tls-certificate")
    parser.add_argument("--tls-key")
    parser.add_argument("--tls-authority")
    return parser.parse_args(arguments)


async def _serve(identity: WorkerIdentity, settings: Settings, tls: TlsFiles | None) -> None:
    stopping, leaving = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def unneeded() -> None:
        leaving.set()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    engine, home = settings.engine, identity.home
    copies = Copies(home / "run", identity.id, identity.incarnation)
    loader = loader_of(home / "blobs" / "sha256", copies, engine)
    links = LinkOptions(tls, engine.max_frame_bytes, engine.coalesce, uninitialised)
    worker = Worker(identity, settings, loader, SystemClock(), links, unneeded)
    await worker.start()
    settle()
    await stopping.wait()
    if leaving.is_set():
        await worker.leave(_LEAVE_TIMEOUT_S)
    await worker.drain(settings.http.drain_timeout_s)
    await worker.stop()


def _tls(options: argparse.Namespace) -> TlsFiles | None:
    if not options.tls_certificate:
        return None
    return TlsFiles(
        Path(options.tls_certificate), Path(options.tls_key), Path(options.tls_authority)
    )


if __name__ == "__main__":
    main()
