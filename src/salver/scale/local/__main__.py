"""`python -m salver.scale.local`: the supervisor process behind `salver up`."""

import argparse
import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path

from salver.core.clock import SystemClock
from salver.core.errors import InvalidSettings, SalverError
from salver.core.settings_file import read_settings
from salver.observe.lines import say
from salver.scale.local.notify import READY, STOPPING, Notifier
from salver.scale.local.supervisor import Supervisor, UpOptions


def main(arguments: list[str] | None = None) -> None:
    """Run until stopped; exit code 1 with one line when it cannot start."""
    options = _parse(arguments)
    notifier = Notifier(os.environ, os.getpid())
    notifier.provision()
    try:
        settings = read_settings(options.home)
        supervisor = Supervisor(options, settings, SystemClock(), secrets.token_hex(8))
        supervisor.provision()
        asyncio.run(_serve(supervisor, options, notifier))
    except SalverError as error:
        sys.exit(f"error: {error.message} [{error.code}]")


def _parse(arguments: list[str] | None) -> UpOptions:
    parser = argparse.ArgumentParser(prog="salver up", description=__doc__)
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--http-host", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("--control-port", type=int, default=8090)
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--api-keys", type=Path)
    parser.add_argument("--allow-anonymous", action="store_true")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-client-ca", type=Path)
    return UpOptions(**vars(parser.parse_args(arguments)))


async def _serve(supervisor: Supervisor, options: UpOptions, notifier: Notifier) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked_to_stop() -> None:
        if stopping.is_set():
            supervisor.hurry()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    supervisor.refused = stopping.set
    notifier.start()
    await supervisor.start()
    say(f"data port {supervisor.http_url} (REST and gRPC), gRPC also {supervisor.grpc_target}")
    say(f"control API {supervisor.control_url}")
    say(f"state and logs in {options.home}; end with Ctrl-C or 'salver stop' (pid {os.getpid()})")
    notifier.tell(READY, f"data port {supervisor.http_url}, control API {supervisor.control_url}")
    await stopping.wait()
    notifier.tell(STOPPING, f"stopping: {supervisor.refusal or 'requests are answered first'}")
    if not supervisor.refusal:
        say("stopping: requests in flight are answered first")
    await supervisor.stop()
    await notifier.stop()
    say("stopped")
    if supervisor.refusal:
        raise InvalidSettings(supervisor.refusal)


if __name__ == "__main__":
    main()
