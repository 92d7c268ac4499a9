"""`python -m salver.gateway`: one gateway process."""

import argparse
import asyncio
import os
import random
import secrets
import signal
import socket
from pathlib import Path

import uvloop

from salver.core.clock import SystemClock
from salver.core.errors import SalverError
from salver.core.exits import give_up
from salver.core.garbage import settle
from salver.core.secret_file import load_secret
from salver.core.settings import Settings
from salver.core.settings_file import read_settings
from salver.core.tls import server_tls
from salver.gateway.app import Gateway, GatewayIdentity
from salver.observe.heartbeat import Heartbeat
from salver.observe.logs import configure_logs

_KEY_BYTES = 32


def main(arguments: list[str] | None = None) -> None:
    """Run a gateway until it is told to stop."""
    options = _parse(arguments)
    home = Path(options.home)
    try:
        settings = read_settings(home)
        configure_logs(settings.observe.log_level, process=options.id, pid=os.getpid())
        limit_s, ending_s = settings.http.unresponsive_s, settings.supervisor.stop_timeout_s
        heartbeat = Heartbeat(home / "run", options.id, limit_s, SystemClock())
        uvloop.run(heartbeat.during(_serve(options, home, settings), ending_s))
    except SalverError as error:
        give_up(error)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="salver gateway", description=__doc__)
    parser.add_argument("--id", default="gateway-0", help="identity of this gateway")
    parser.add_argument("--home", required=True, help="folder of the server's state")
    parser.add_argument(
        "--fd", type=int, action="append", help="inherited listening socket; may be repeated"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address, when there is no --fd")
    parser.add_argument("--port", type=int, default=8080, help="port, when there is no --fd")
    parser.add_argument("--api-keys", type=Path, help="YAML file of hashed keys")
    parser.add_argument(
        "--gateways", type=int, default=1, help="gateways that share the work, and callers' rates"
    )
    parser.add_argument("--tls-cert", type=Path, help="PEM file: certificate and its chain")
    parser.add_argument("--tls-key", type=Path, help="PEM file: the certificate's key")
    parser.add_argument("--tls-client-ca", type=Path, help="PEM file: who signs clients' ones")
    return parser.parse_args(arguments)


async def _serve(options: argparse.Namespace, home: Path, settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    identity = GatewayIdentity(
        options.id,
        secrets.token_hex(8),
        home,
        load_secret(home / "ids.key", _KEY_BYTES),
        options.api_keys,
        tls=server_tls(
            options.tls_cert,
            options.tls_key,
            options.tls_client_ca,
            has_keys=options.api_keys is not None,
        ),
        gateways=options.gateways,
    )
    gateway = Gateway(identity, settings, SystemClock(), random.SystemRandom())
    await gateway.provision()
    await gateway.start(*_listening_sockets(options))
    settle()
    await stopping.wait()
    await gateway.drain(settings.http.drain_timeout_s)
    await gateway.stop()


def _listening_sockets(options: argparse.Namespace) -> list[socket.socket]:
    if options.fd is not None:
        return [socket.socket(fileno=descriptor) for descriptor in options.fd]
    return [socket.create_server((options.host, options.port), reuse_port=False)]


if __name__ == "__main__":
    main()
