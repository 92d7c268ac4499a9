"""Versions that failed of what is stored, which is then mended: they load without another plan."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvloop

from salver.core.errors import DigestMismatch
from salver.core.settings import EngineSettings
from salver.core.signature import Signature
from salver.engine.materialize import materialize
from salver.engine.worker.app import AnyHost
from salver.engine.worker.host import BatchHost
from salver.engine.worker.loader import Loader
from salver.engine.worker.loading import Loading
from salver.engine.worker.pauses import Pauses
from salver.engine.worker.stream import StreamHost
from salver.observe.meter import Meter
from salver.runtimes.base import RuntimeOptions
from salver.runtimes.echo_stream import SIGNATURE
from salver.runtimes.table import create_batch, create_stream
from salver.wire.copies import Copies
from salver.wire.messages import FileRef, Load
from salver.wire.transport import listen
from tests.engine.fleet import CLOCK, Fleet, Model, until
from tests.engine.worker.test_app import hang_up, states
from tests.wire.links import Inbox, hello

STREAM = Model("echo:1", "echo-stream", b"affine", signature=SIGNATURE)
BUDGET = {"SALVER_ENGINE__MEMORY_BUDGET_BYTES": str(1 << 34)}


@pytest.mark.parametrize(
    ("model", "environment"),
    [
        (Model(), {}),
        (Model(), BUDGET),
        (Model(pinned=True), BUDGET),
        (STREAM, {}),
    ],
)
def test_a_version_that_never_loaded_loads_once_its_blob_is_mended(
    model: Model, environment: dict[str, str]
) -> None:
    """Whatever hosts it: batches or streams, with and without a memory budget."""

    async def run(running: Fleet) -> None:
        inbox = Inbox()
        door = await listen(f"unix:{running.home}/run/control.sock", hello("control"), inbox.accept)
        (blob,) = (running.home / "blobs" / "sha256").glob("*/*")
        blob.write_bytes(b"affinf")
        running.start("shared-0")
        await until(lambda: states(inbox) == {model.variant: "failed"})
        blob.write_bytes(b"affine")
        await until(lambda: states(inbox) == {model.variant: "ready"})
        await door.close()
        await hang_up(inbox)

    environment = {"SALVER_CONTROL__SNAPSHOT_INTERVAL_S": "0.05", **environment}
    running = Fleet((model,), 1, environment)
    try:
        uvloop.run(run(running))
    finally:
        running.close()


@pytest.mark.parametrize("streams", [False, True])
def test_a_version_that_may_leave_when_idle_is_tried_again(*, streams: bool) -> None:
    """One that has not loaded yet is not left to requests, which a failed version refuses."""
    tried: list[str] = []

    def load_runtime(load: Load) -> Any:
        tried.append(load.variant)
        raise DigestMismatch("damaged")

    async def run() -> None:
        meter = Meter()
        load = Load("a:1", "a", "affine", (), "local", Signature((), ()), idle_s=60.0)
        loading: Loading[Any] = Loading(load, load_runtime, CLOCK, meter, lambda: None, 60.0)
        loading.come_and_go(proven=False)
        host: AnyHost = (
            StreamHost(loading, CLOCK)
            if streams
            else BatchHost(loading, EngineSettings(), CLOCK, meter)
        )
        host.begin_load()
        await until(lambda: len(tried) > 1)
        host.retire()
        host.close()

    uvloop.run(run())


def test_the_same_version_is_copied_once_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was undeployed may still be copied as it is deployed again, to the same folder."""
    at_once: list[str] = []
    most = 0

    def copied(files: tuple[FileRef, ...], blobs: Path, folder: Path, *, runs_code: bool) -> None:
        nonlocal most
        at_once.append(folder.name)
        most = max(most, len(at_once))
        time.sleep(0.05)
        materialize(files, blobs, folder, runs_code=runs_code)
        at_once.pop()

    monkeypatch.setattr("salver.engine.worker.loader.materialize", copied)
    copies = Copies(tmp_path, "shared-0", "test")
    loader = Loader(tmp_path, copies, RuntimeOptions(), create_batch, create_stream)
    load = Load("a:1", "a", "echo-stream", (), "local", SIGNATURE)
    with ThreadPoolExecutor(4) as threads:
        runtimes = list(threads.map(loader.stream, [load] * 4))
    assert len(runtimes) == 4
    assert most == 1
    loader.close()


def test_pauses_grow_to_a_minute_and_begin_again() -> None:
    """Each is twice the one before, none is over a minute, and a success ends them."""
    pauses = Pauses()
    taken = [pauses.take() for _ in range(8)]
    assert taken == [1, 2, 4, 8, 16, 32, 60, 60]
    pauses.end()
    assert pauses.take() == 1
