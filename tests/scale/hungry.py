"""A process in a group: takes shared memory, exits, is killed, or has its helper killed for it.

The last one says "bereft" when the kernel has killed its helper for want of memory, and sleeps.
"""

import argparse
import mmap
import os
import signal
import sys
import time

_PIECE = bytes(1 << 20)
_PIECES = 400
_SLEEP_S = 600


def _eat() -> None:
    with mmap.mmap(-1, len(_PIECE) * _PIECES) as room:
        for _ in range(_PIECES):
            room.write(_PIECE)


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode")
    parser.add_argument("--group", action="append")
    arguments = parser.parse_args()
    mode, has_group = arguments.mode, bool(arguments.group)
    if mode == "eats":
        _eat()
    elif mode == "bereft":
        helper = os.fork()
        if not helper:
            _eat()
            os._exit(0)
        os.waitpid(helper, 0)
        print("bereft", flush=True)
        time.sleep(_SLEEP_S if has_group else 0)
    elif mode == "exits":
        sys.exit(3)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
