"""Ends a process whose model's code cannot be got back; its supervisor starts another."""

import faulthandler
import os

from salver.observe.logs import get_logger

log = get_logger(__name__)

EXIT_STATUS = 70
# By number, since a host that takes down what code prints has put something else in its place.
STDERR = 2


def end_process(
    event: str = "code_stuck", fix: str = "see below where; the process is restarted"
) -> None:
    """Write to the log where every thread is, and end this process at once."""
    log.error(event, fix=fix)
    faulthandler.dump_traceback(file=STDERR)
    os._exit(EXIT_STATUS)
