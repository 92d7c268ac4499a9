"""What a killed control leaves of a push."""

import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from salver.control.scratch import take_scratch
from tests.e2e.server import SALVER, Server, wait_until
from tests.e2e.test_code import one_number
from tests.runtimes.code_models import write

# Ends with what it was started from, so that nothing goes on after the test.
STAYING = """
import time


class Model:
    def load(self, path):
        while path.exists():
            time.sleep(0.05)

    def predict(self, inputs):
        return {"y": inputs["x"]}
"""


def test_copies_of_an_examination_that_was_killed_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in the home, for its owner only, and the next control removes them."""
    folder = write(tmp_path / "model", STAYING)
    example, system = one_number(tmp_path / "example.json", 2.0), tmp_path / "system"
    system.mkdir()
    monkeypatch.setenv("TMPDIR", str(system))
    with Server(tmp_path / "home") as server:
        scratch = server.home / "run" / "scratch"
        words = ("--name", "staying", "--example", example, "--trust-code")
        with subprocess.Popen(
            [SALVER, "push", folder, *words, "--home", server.home], stderr=subprocess.PIPE
        ) as push:
            # A folder for the copy, and one for the process that examines it.
            wait_until(lambda: len(list(scratch.glob("salver-*"))) == 2, "the examination")
            wait_until(lambda: any(scratch.glob("*/artifact/*")), "the copy")
            for place in (scratch, *scratch.iterdir()):
                assert stat.S_IMODE(place.stat().st_mode) == 0o700
            server.kill("control")
            push.communicate()
        assert push.returncode == 1
        wait_until(lambda: not any(scratch.iterdir()), "an empty folder")
    assert list(system.iterdir()) == []


def test_a_relative_home_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examinations run in folders of their own, from where they look for their files."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    take_scratch(Path("scratch"))
    assert Path(tempfile.mkdtemp()).parent == tmp_path / "scratch"


def test_what_was_left_goes_and_the_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full may have no room to make it again."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder, other = tmp_path / "scratch", tmp_path / "other"
    for made in (folder / "push" / "artifact", other):
        made.mkdir(parents=True)
    (folder / "file").write_bytes(b"left")
    (folder / "link").symlink_to(other)
    before = folder.stat().st_ino
    take_scratch(folder)
    assert list(folder.iterdir()) == []
    assert folder.stat().st_ino == before
    assert other.is_dir()
