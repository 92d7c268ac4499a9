"""Loads a version in a throw-away process, to see whether that ends the process it is done in."""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path

import msgspec

from salver.core.settings import EngineSettings
from salver.engine.apart import run_apart
from salver.observe.logs import get_logger
from salver.wire.messages import Load

log = get_logger(__name__)

CHILD = "salver.engine.trial_child"


class TrialRequest(msgspec.Struct, frozen=True):
    """What shall be loaded, from which blobs, with copies in which folder."""

    load: Load
    blobs: str
    folder: str
    settings: EngineSettings


async def try_load(request: TrialRequest) -> str:
    """Return how a process ended that did nothing but this load, "" if it outlived the load.

    That is so as well where the load failed in good order. ``folder`` is made anew and removed. The
    process has the limits and the environment of this one, has ended when this returns or is
    cancelled, and ends with this one. Raises ``OSError`` where there is no room for another.
    """
    folder, timeout_s = Path(request.folder), request.settings.load_timeout_s
    spec, result = folder / "request", folder / "result"
    try:
        await asyncio.to_thread(_write, folder, spec, request)
        arguments = (str(os.getpid()), str(spec), str(result))
        status, errors = await run_apart(CHILD, arguments, None, os.environ, timeout_s)
        if result.exists():
            return ""
    except TimeoutError:
        return f"was not done after {timeout_s:g} s"
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    told = errors.decode(errors="replace").strip()
    log.error("load_ended_trial", variant=request.load.variant, status=status, last_words=told)
    return f"ended as well ({_told(status)})"


def _write(folder: Path, spec: Path, request: TrialRequest) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    spec.write_bytes(msgspec.msgpack.encode(request))


def _told(status: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"exit {status}"
