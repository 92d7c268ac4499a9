"""What a model's code prints reaches the log, and never fills the disk."""

import subprocess
import sys

import structlog

from salver.core.clock import ManualClock
from salver.engine.worker.prints import Prints


def test_lines_are_events() -> None:
    """Parts of a line wait for its end; each line is one event with the stream's name."""
    with structlog.testing.capture_logs() as events:
        prints = Prints("stdout", ManualClock(), sys.stdout)
        print("one", 1, file=prints)
        print("two", end="", file=prints)
        assert len(events) == 1
        print(" three\nfour", file=prints)
    assert [(event["stream"], event["text"]) for event in events] == [
        ("stdout", "one 1"),
        ("stdout", "two three"),
        ("stdout", "four"),
    ]


def test_a_line_without_end_is_cut() -> None:
    """No more than a line's worth is kept in memory."""
    with structlog.testing.capture_logs() as events:
        prints = Prints("stdout", ManualClock(), sys.stdout)
        for _ in range(100):
            prints.write("x" * 1000)
        assert len(prints._line) <= 4096
    assert {len(event["text"]) for event in events} == {4096}


def test_a_flood_is_counted_instead_of_written() -> None:
    """At most a burst and then so much a second is written; what was dropped is told."""
    clock = ManualClock()
    with structlog.testing.capture_logs() as events:
        prints = Prints("stderr", clock, sys.stderr)
        for _ in range(10_000):
            prints.write("x" * 99 + "\n")
        written = len(events)
        assert 2000 < written < 3000
        clock.advance(10.0)
        prints.write("later\n")
    assert events[written]["event"] == "model_output_dropped"
    assert events[written]["lines"] == 10_000 - written
    assert events[written + 1]["text"] == "later"


def test_it_stands_for_a_stream_with_a_descriptor() -> None:
    """Libraries that ask for descriptor, encoding or bytes find those of the real stream."""
    script = """
import subprocess, sys
from salver.core.clock import SystemClock
from salver.engine.worker.prints import capture_prints
from salver.observe.logs import configure_logs
configure_logs("info")
capture_prints(SystemClock())
capture_prints(SystemClock())
assert (sys.stdout.encoding, sys.stdout.fileno(), sys.stdout.isatty()) == ("utf-8", 1, False)
subprocess.run(["echo", "from a child"], stdout=sys.stdout, check=True)
sys.stdout.buffer.write(b"as bytes")
print("as text")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.splitlines() == [b"from a child", b"as bytes"]
    assert done.stderr.count(b"model_output") == 1
    assert b"as text" in done.stderr
