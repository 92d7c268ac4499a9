"""A process that gives up as one does that cannot begin, at its first start or a later one."""

import sys
import time
from pathlib import Path

from salver.core.errors import InvalidSettings
from salver.core.exits import give_up

if __name__ == "__main__":
    marks, wanted = Path(sys.argv[1]), int(sys.argv[2])
    start = len(list(marks.iterdir())) + 1
    (marks / str(start)).touch()
    if start == wanted:
        give_up(InvalidSettings(f"start {start}\nis of no use"))
    if start < wanted:
        sys.exit(1)
    time.sleep(120)
