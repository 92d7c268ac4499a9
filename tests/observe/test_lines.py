"""Logs that cannot be written: nobody fails of it, and what is missing is told afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.observe.lines import Lines
from tests.disk import no_larger_than

SPEAKS = """
import os, sys
from salver.observe.lines import say
from salver.observe.logs import configure_logs, get_logger
configure_logs("info", process="gateway-0")
log = get_logger("a.room")
def both():
    log.info("event")
    try:
        raise ValueError("of ours")
    except ValueError:
        log.exception("failed")
    say("text")
both()
real = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.dup2(real, 2)
both()
print("goes on")
"""


def told(lost: int, cause: str) -> str:
    """Word what is missing."""
    return f"{lost} lost: {cause}"


@pytest.fixture
def out(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Give a file and a descriptor that appends to it."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield path, descriptor
    os.close(descriptor)


def test_what_a_full_disk_takes_no_more_is_counted_and_told(out: tuple[Path, int]) -> None:
    """Lines without room are lost, and the next one that has room says how many and why."""
    path, descriptor = out
    full = os.open("/dev/full", os.O_WRONLY)
    kept = os.dup(descriptor)
    lines = Lines(descriptor, told)
    lines.write("first")
    os.dup2(full, descriptor)
    for _ in range(3):
        lines.write("lost")
    assert lines.lost == 3
    os.dup2(kept, descriptor)
    lines.write("later")
    lines.write("last")
    assert lines.lost == 0
    cause = "3 lost: No space left on device"
    assert path.read_text().splitlines() == ["first", cause, "later", "last"]
    os.close(full)
    os.close(kept)


def test_half_a_line_does_not_spoil_the_next(out: tuple[Path, int]) -> None:
    """Where the room ends within a line, the rest of the log still begins on a line of its own."""
    path, descriptor = out
    lines = Lines(descriptor, told)
    with no_larger_than(10):
        lines.write("whole")
        lines.write("cut in two")
        lines.write("lost")
    lines.write("later")
    assert path.read_text().splitlines() == ["whole", "cut ", "2 lost: File too large", "later"]


def test_a_reader_that_is_gone_stops_nobody() -> None:
    """Who reads the log through a pipe may end."""
    reader, writer = os.pipe()
    os.close(reader)
    lines = Lines(writer, told)
    lines.write("to nobody")
    assert lines.lost == 1
    os.close(writer)


def test_events_and_words_go_on_without_a_log(tmp_path: Path) -> None:
    """A process whose standard error is full runs on, and says what is missing when it has room."""
    log = tmp_path / "log"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", SPEAKS, str(log)],
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"goes on\n")
    missing, event, failed, said, text = log.read_text().splitlines()
    notice = json.loads(missing)
    assert (notice["event"], notice["lost"], notice["level"]) == ("log_lines_lost", 2, "warning")
    assert (notice["process"], notice["cause"]) == ("gateway-0", "No space left on device")
    assert "timestamp" in notice
    assert json.loads(event)["event"] == "event"
    assert "of ours" in json.loads(failed)["exception"]
    assert said.startswith("salver: 1 lines before this one")
    assert text == "salver: text"
