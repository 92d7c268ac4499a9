"""`python -m salver.engine.zygote`: forks processes that have imported all a worker needs.

It runs no thread, no event loop and no model, so that a fork copies nothing half done. Each child
is forked twice: the one in between ends at once, so that the supervisor, which adopts the orphans
among its descendants, becomes the parent, waits for it and takes it along when it dies.
"""

import argparse
import ctypes
import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np

from salver.core.errors import SalverError
from salver.engine.__main__ import main as run_worker
from salver.engine.belonging import end_with
from salver.observe.lines import say
from salver.runtimes.table import create_stream, is_stream, prepare_batch
from salver.wire.fork import Begin, Born, Fork, hear, tell

_ADOPTION_POLL_S = 0.0002
_ADOPTION_TIMEOUT_S = 2.0
_ARG_START, _ARG_END = 45, 46


def main(arguments: list[str] | None = None) -> None:
    """Fork on demand until the supervisor is gone; returns in no child."""
    parser = argparse.ArgumentParser(prog="salver zygote", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="link to the supervisor")
    parser.add_argument("--runtimes", default="", help="what to import, with commas between")
    parser.add_argument("--home", help="whose zygote this is, for 'ps'")
    parser.add_argument("--room", default="", help="room for the arguments of workers in 'ps'")
    options = parser.parse_args(arguments)
    link = socket.socket(fileno=options.fd)
    os.set_inheritable(options.fd, False)
    _import_runtimes(options.runtimes)
    gc.collect()
    gc.freeze()
    while (heard := hear(link)) is not None:
        message, descriptors = heard
        if isinstance(message, Fork) and descriptors:
            _check_threads()
            begin = _forked(link, message.supervisor, descriptors[0])
            if begin is not None:
                run_worker(list(begin))
                return


def _import_runtimes(names: str) -> None:
    for name in filter(None, names.replace(" ", "").split(",")):
        try:
            if is_stream(name):
                create_stream(name)
            else:
                prepare_batch(name)
        except SalverError as error:
            say(f"{error.message} [{error.code}]")


def _check_threads() -> None:
    """End this process rather than fork it beside a thread, which would not exist in the copy."""
    count = len(os.listdir("/proc/self/task"))
    if count > 1:
        sys.exit(f"salver: {count} threads run in the zygote; a library started them when imported")


def _forked(link: socket.socket, supervisor: int, descriptor: int) -> tuple[str, ...] | None:
    """Return None in this process, and in the child the arguments it shall run with."""
    between = os.fork()
    if between:
        os.close(descriptor)
        os.waitpid(between, 0)
        return None
    if os.fork():
        os._exit(0)
    link.close()
    return _wait_to_begin(socket.socket(fileno=descriptor), supervisor)


def _wait_to_begin(own: socket.socket, supervisor: int) -> tuple[str, ...]:
    """Belong to the supervisor, then wait until there is something to do; in the child."""
    os.setsid()
    _be_adopted(supervisor)
    # What was drawn before the fork would be drawn again in every child.
    np.random.seed()  # noqa: NPY002 - it is the global generator that models use
    try:
        tell(own, Born(os.getpid()))
        heard = hear(own)
    except OSError:
        heard = None
    begin, descriptors = heard or (None, [])
    if not isinstance(begin, Begin):
        os._exit(0)
    own.close()
    log, *doors = descriptors
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.close(log)
    arguments = (*begin.arguments, *(("--listen-fd", str(doors[0])) if doors else ()))
    _retitle(("salver.engine", *arguments))
    return arguments


def _be_adopted(supervisor: int) -> None:
    deadline = time.monotonic() + _ADOPTION_TIMEOUT_S
    while os.getppid() != supervisor:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(_ADOPTION_POLL_S)
    end_with(supervisor, signal.SIGTERM)


def _retitle(arguments: tuple[str, ...]) -> None:
    """Show in ``ps`` what this process does now, over the arguments of the zygote."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    except (OSError, ValueError, IndexError):
        return
    size = end - start
    words = (sys.executable, "-m", *arguments)
    title = b"\0".join(word.encode() for word in words)[: max(0, size - 1)]
    if start > 0 and size > 0:
        ctypes.memmove(start, title.ljust(size, b"\0"), size)


if __name__ == "__main__":
    main()
