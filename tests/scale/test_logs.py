"""Logs stay bounded while their processes run."""

import asyncio
from pathlib import Path

import pytest

from salver.scale.local.logs import LogTrimmer, trim


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.scale.local.logs._MAX_LOG_BYTES", 1000)
    monkeypatch.setattr("salver.scale.local.logs._INTERVAL_S", 0.01)


def test_a_log_that_is_written_is_cut(tmp_path: Path) -> None:
    """Its end is kept as the older log, and the writer goes on in the same file."""
    log = tmp_path / "one.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 900)
        trim(log)
        assert log.stat().st_size == 900
        writer.write(b"b" * 900)
        trim(log)
        writer.write(b"c")
    assert log.read_bytes() == b"c"
    assert (tmp_path / "one.log.1").read_bytes() == b"a" * 100 + b"b" * 900


def test_without_room_for_the_older_log_it_is_cut_all_the_same(tmp_path: Path) -> None:
    """A full disk must not make logs grow."""
    log = tmp_path / "one.log"
    log.write_bytes(b"a" * 2000)
    (tmp_path / "one.log.1").mkdir()
    trim(log)
    assert log.stat().st_size == 0


def sizes(folder: Path) -> int:
    """Return the bytes of all logs together."""
    return sum(log.stat().st_size for log in folder.glob("*.log"))


def test_all_logs_are_looked_at_again_and_again(tmp_path: Path) -> None:
    """Those of every process of the folder, and nothing else in it."""

    async def run() -> None:
        trimmer = LogTrimmer(tmp_path)
        trimmer.start()
        (tmp_path / "notes.txt").write_bytes(b"x" * 2000)
        for _ in range(2):
            for name in ("supervisor.log", "shared-0.log"):
                with (tmp_path / name).open("ab") as log:
                    log.write(b"x" * 2000)
            async with asyncio.timeout(30):
                while sizes(tmp_path):  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)
        await trimmer.stop()
        assert (tmp_path / "notes.txt").stat().st_size == 2000

    asyncio.run(run())
