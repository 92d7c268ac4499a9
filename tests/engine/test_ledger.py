"""The note a worker leaves of what it is about to run."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from salver.core.errors import InvalidName, WireError
from salver.core.settings import EngineSettings
from salver.engine.client.link import WorkerLink
from salver.engine.ledger import MAX_IDS, SLOTS, Ledger, clear, new_name
from salver.wire.messages import BatchPolicy
from tests.engine.fleet import Fleet, Model, client_of, finish, fleet, until


def pair(folder: Path) -> tuple[Ledger, Ledger]:
    """Return both ends of one ledger."""
    name = new_name("shared-0")
    return Ledger.create(folder, name), Ledger.open(folder, name)


def test_what_one_end_notes_the_other_reads(tmp_path: Path) -> None:
    """Each slot holds its newest note, all slots count, and the file's name is gone at once."""
    reader, writer = pair(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert reader.noted() == frozenset()
    assert writer.note(0, [1, 2, 3])
    assert writer.note(SLOTS - 1, [2**63])
    assert reader.noted() == {1, 2, 3, 2**63}
    assert writer.note(0, [9])
    assert reader.noted() == {9, 2**63}
    writer.close()
    assert reader.noted() == {9, 2**63}
    reader.close()


def test_what_does_not_fit_is_left_to_a_message(tmp_path: Path) -> None:
    """Too many ids, or a slot too many, are not noted, and nothing else changes."""
    reader, writer = pair(tmp_path)
    assert writer.note(1, range(MAX_IDS))
    assert not writer.note(1, range(MAX_IDS + 1))
    assert not writer.note(SLOTS, [1])
    assert reader.noted() == frozenset(range(MAX_IDS))


def test_a_note_outlives_its_writer(tmp_path: Path) -> None:
    """After kill -9 of the writing process the note is there."""
    name = new_name("shared-0")
    reader = Ledger.create(tmp_path, name)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from salver.engine.ledger import Ledger\n"
        "Ledger.open(Path(sys.argv[1]), sys.argv[2]).note(3, [5, 7])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), name], check=False)
    assert done.returncode == -signal.SIGKILL
    assert reader.noted() == {5, 7}


def test_strange_files_and_names_are_refused(tmp_path: Path) -> None:
    """Only a file of the right size, by a plain name and not through a link, is a ledger."""
    (tmp_path / "ledger-short").write_bytes(b"x")
    with pytest.raises(WireError):
        Ledger.open(tmp_path, "ledger-short")
    (tmp_path / "ledger-link").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic"):
        Ledger.open(tmp_path, "ledger-link")
    (tmp_path / "plan.msgpack").write_bytes(bytes(256 * 1024))
    with pytest.raises(WireError):
        Ledger.open(tmp_path, "plan.msgpack")
    assert (tmp_path / "plan.msgpack").exists()
    with pytest.raises(InvalidName):
        Ledger.open(tmp_path, "../ledger")
    with pytest.raises(FileNotFoundError):
        Ledger.open(tmp_path, "ledger-none")


def test_a_worker_clears_what_earlier_gateways_left(tmp_path: Path) -> None:
    """Ledgers of links to this worker go; those of others, and other files, stay."""
    for worker in ("shared-0", "shared-00"):
        Ledger.create(tmp_path, new_name(worker))
    (tmp_path / "ledger-shared-0-notes").write_text("mine")
    clear(tmp_path, "shared-0")
    left = sorted(path.name[:17] for path in tmp_path.iterdir())
    assert left == ["ledger-shared-0-n", "ledger-shared-00-"]


@pytest.fixture
def full() -> Iterator[Path]:
    """Give a folder on a file system of its own without any room."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this user may not mount a small file system")
        try:
            with Path(folder, "fill").open("wb", buffering=0) as file:
                while file.write(b"x" * 4096):
                    if os.statvfs(folder).f_bavail == 0:
                        break
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_a_full_disk_means_no_ledger(full: Path) -> None:
    """There an error says so at once; a sparse file would kill whoever writes to it later."""
    with pytest.raises(OSError, match="No space"):
        Ledger.create(full, new_name("shared-0"))
    assert not list(full.glob("ledger-*"))


def _runs(link: WorkerLink) -> bool:
    """Tell whether the client could know that one of its requests runs."""
    noted = link.running.noted()
    return any(one.started or one.id in noted for one in link.pending.values())


@pytest.mark.parametrize(("here", "there"), [(True, True), (False, True), (True, False)])
def test_who_was_running_is_known_either_way(here: bool, there: bool) -> None:
    """After a death the running batch is told from the queue, with a ledger and without.

    With a batch of one row, exactly one request of many was running.
    """

    async def run(running: Fleet) -> None:
        async with client_of(running, EngineSettings(ledger=here)) as callers:
            first = callers.ask(0.0)
            await finish([first])
            asked = [callers.ask(float(value)) for value in range(1, 9)]
            link = callers.client._links["shared-0"]
            await until(lambda: _runs(link))
            lost: list[int] = []
            was_lost = callers.client.lost

            def watch(link: object, pending: list[object]) -> None:
                lost.extend(item.started for item in pending)  # type: ignore[attr-defined]
                was_lost(link, pending)  # type: ignore[arg-type]

            callers.client.lost = watch  # type: ignore[method-assign, assignment]
            running.kill("shared-0")
            await finish(asked)
            assert link is callers.client._links["shared-0"]
            assert sum(lost) == 1
            assert len(lost) > 1

    environment = {"SALVER_ENGINE__LEDGER": str(there).lower()}
    model = Model(runtime="very-slow", policy=BatchPolicy(max_batch_size=1))
    with fleet(model, environment=environment) as running:
        uvloop.run(run(running))
