"""What `salver logs` shows."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.commands import PROGRAM

_PATIENCE_S = 60.0


@contextmanager
def following(home: Path, shown: Path, *words: str) -> Iterator[None]:
    """Let the command follow the logs of a home, and write what it shows into a file."""
    with shown.open("w") as file:
        process = subprocess.Popen([*PROGRAM, "logs", *words, "-f", "--home", home], stdout=file)
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


def comes(shown: Path, *lines: str) -> None:
    """Wait until exactly these lines have been shown."""
    deadline, wanted = time.monotonic() + _PATIENCE_S, list(lines)
    while (found := shown.read_text().splitlines()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def line(process: str, text: str) -> str:
    """Return a log's line as it is shown."""
    return f"{process:>14}  {text}"


def test_a_log_that_begins_later_is_followed(tmp_path: Path) -> None:
    """A process that starts while somebody watches is shown from its first line, and on."""
    (tmp_path / "logs").mkdir()
    control, gateway = (tmp_path / "logs" / f"{name}.log" for name in ("control", "gateway-0"))
    control.write_text("one\n")
    shown = tmp_path / "shown"
    lines = [line("control", "one"), line("gateway-0", "two"), line("gateway-0", "three")]
    with following(tmp_path, shown):
        comes(shown, *lines[:1])
        gateway.write_text("two\n")
        comes(shown, *lines[:2])
        with gateway.open("a") as file:
            file.write("three\n")
        comes(shown, *lines)


def test_only_the_named_process_is_followed(tmp_path: Path) -> None:
    """Whoever begins later beside a named process is not shown."""
    (tmp_path / "logs").mkdir()
    control, gateway = (tmp_path / "logs" / f"{name}.log" for name in ("control", "gateway-0"))
    control.write_text("one\n")
    shown = tmp_path / "shown"
    with following(tmp_path, shown, "control"):
        comes(shown, line("control", "one"))
        gateway.write_text("another's\n")
        # Logs are looked at in the order of their names, so the other one came in between.
        for number, text in enumerate(("two", "three"), 2):
            with control.open("a") as file:
                file.write(f"{text}\n")
            comes(shown, *(line("control", each) for each in ("one", "two", "three")[:number]))
