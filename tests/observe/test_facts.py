"""The file that says where a process is found."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.observe.facts import Facts
from tests.disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Give a file system of its own, which may be mounted anew."""
    with small_disk(tmp_path / "disk", 1024 * 1024) as small:
        if small is None:
            pytest.skip("mounting needs root")
        yield small


def test_a_file_on_a_read_only_disk_stays_and_stops_nobody(disk: SmallDisk) -> None:
    """A disk that the kernel made read-only after an error keeps the file; stopping goes on."""
    path = disk.folder / "control.json"
    facts = Facts(path)
    facts.start(b"{}")
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    facts.remove()
    assert path.read_bytes() == b"{}"
    subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True)
    facts.remove()
    assert not path.exists()


def test_what_is_no_file_any_more_stops_nobody(tmp_path: Path) -> None:
    """A folder in the file's place cannot be unlinked, and a file that is gone need not be."""
    path = tmp_path / "control.json"
    facts = Facts(path)
    facts.remove()
    path.mkdir()
    facts.remove()
    assert os.listdir(tmp_path) == ["control.json"]
