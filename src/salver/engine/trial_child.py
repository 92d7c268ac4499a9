"""The throw-away process that loads one version as its worker would: what counts is how it ends."""

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from salver.engine.belonging import end_with
from salver.engine.trial import TrialRequest
from salver.engine.worker.loader import loader_of
from salver.runtimes.table import is_stream
from salver.wire.copies import Copies

_FIRST_TO_GO = "1000"


def main() -> None:
    """Load what is asked for, and say that this process is still there."""
    parent, spec, result = sys.argv[1:]
    end_with(int(parent), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        # A machine without memory ends this process, and not the worker with its other models.
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    request = msgspec.msgpack.decode(Path(spec).read_bytes(), type=TrialRequest)
    copies = Copies(Path(request.folder), "trial", "trial")
    loader = loader_of(Path(request.blobs), copies, request.settings)
    with suppress(BaseException):  # the worker itself tells how a load fails that ends nothing
        (loader.stream if is_stream(request.load.runtime) else loader.batch)(request.load)
    Path(result).touch()
    # What libraries do when an interpreter is taken apart is not the load's doing.
    os._exit(0)


if __name__ == "__main__":
    main()
