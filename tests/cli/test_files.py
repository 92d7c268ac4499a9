"""Files and folders that a command cannot use."""

from pathlib import Path

import pytest

from tests.cli.commands import salver


def only_line(text: str) -> str:
    """Return the one line that a text is."""
    (line,) = text.splitlines()
    return line


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    """It is named in one line with a code, and not in a traceback."""
    home = tmp_path / "home"
    home.touch()
    done = salver("up", "--detach", "--home", str(home))
    line = only_line(done.stderr)
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"error: {home}")
    assert line.endswith("[invalid_settings]")


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    """Commands that only read tell of a file in the same way."""
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "control.log"
    log.symlink_to(tmp_path / "nowhere")
    done = salver("logs", "--home", str(tmp_path))
    line = only_line(done.stderr)
    assert done.returncode == 1
    assert line.startswith(f"error: {log}: No such file")
    assert line.endswith("[invalid_settings]")


@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("up", "--help"), ("logs", "--home", "{home}")]
)
def test_results_that_find_no_room(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A full disk under the redirected output is said to be one, in one line."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "control.log").write_text("a line\n")
    done = salver(*(word.format(home=tmp_path) for word in words), into=Path("/dev/full"))
    line = only_line(done.stderr)
    assert done.returncode == 1
    assert line.startswith("error: No space left")
    assert line.endswith("[storage_full]")


def test_a_key_that_finds_no_room() -> None:
    """The last line of standard error says that the entry was not written."""
    done = salver("key", "new", "--principal", "alice", into=Path("/dev/full"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("[storage_full]")
    assert "Traceback" not in done.stderr
