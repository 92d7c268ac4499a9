"""Examines a pushed model in a throw-away process, so that a bad file can hurt nothing else."""

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import msgspec

from salver.core.errors import InvalidArtifact, from_code
from salver.core.sequences import Sequences
from salver.core.settings import EngineSettings
from salver.core.signature import Signature
from salver.core.steps import Steps
from salver.engine.apart import run_apart

CHILD = "salver.engine.probe_child"
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")


class ProbeRequest(msgspec.Struct, frozen=True):
    """What shall be examined; ``runtime`` empty means "see from the files".

    ``example`` and ``golden`` are the contents of those files, ``example_name`` tells CSV.
    """

    folder: str
    runtime: str = ""
    example: bytes = b""
    example_name: str = ""
    golden: bytes = b""
    trust_pickle: bool = False
    trust_code: bool = False
    threads: int = 1
    memory_bytes: int = 0
    steps: Steps | None = None
    step_bytes: int = EngineSettings().step_bytes
    sequences: Sequences | None = None


class ProbeReport(msgspec.Struct, frozen=True):
    """What was found. ``golden`` are JSON lines, recorded from the example if none were given.

    ``sequences`` is what was declared, with the outputs that must be cut, if it holds.
    ``most_rows`` is how many rows the model takes at once, 0 where nothing is known to bound them.
    """

    runtime: str
    signature: Signature
    golden: bytes
    max_batch_size: int
    batching_note: str
    resident_bytes: int
    frameworks: dict[str, str]
    warnings: tuple[str, ...] = ()
    sequences: Sequences | None = None
    most_rows: int = 0


class ProbeFailure(msgspec.Struct, frozen=True):
    """Why the model is refused."""

    code: str
    message: str


Result = ProbeReport | ProbeFailure


async def probe(request: ProbeRequest, settings: EngineSettings) -> ProbeReport:
    """Examine a model; raises the domain error that says why it is refused.

    A child that dies or hangs means ``InvalidArtifact``: the file crashed it.
    """
    with tempfile.TemporaryDirectory(prefix="salver-probe-") as scratch:
        spec, result = Path(scratch, "request"), Path(scratch, "result")
        await asyncio.to_thread(spec.write_bytes, msgspec.msgpack.encode(request))
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        timeout_s = settings.probe_timeout_s
        try:
            status, errors = await run_apart(
                CHILD, [str(spec), str(result)], scratch, environment, timeout_s
            )
        except TimeoutError as error:
            told = f"examining the model took longer than {timeout_s:g} s"
            raise InvalidArtifact(told) from error
        return _outcome(status, result, errors)


def _outcome(status: int, result: Path, errors: bytes) -> ProbeReport:
    if status < 0:
        name = signal.Signals(-status).name
        raise InvalidArtifact(
            f"loading or running the model crashed the examining process ({name}); the file is "
            "damaged, or made to crash"
        )
    try:
        outcome = msgspec.msgpack.decode(result.read_bytes(), type=_Envelope).result
    except (OSError, msgspec.MsgspecError) as error:
        tail = errors.decode(errors="replace").strip() or f"it ended by itself with status {status}"
        raise InvalidArtifact(f"examining the model failed: {tail}") from error
    if isinstance(outcome, ProbeFailure):
        raise from_code(outcome.code, outcome.message)
    return outcome


class _Envelope(msgspec.Struct, frozen=True):
    report: ProbeReport | None = None
    failure: ProbeFailure | None = None

    @property
    def result(self) -> Result:
        if self.failure is not None:
            return self.failure
        assert self.report is not None
        return self.report


def encode_result(result: Result) -> bytes:
    """Return what the child writes."""
    if isinstance(result, ProbeFailure):
        return msgspec.msgpack.encode(_Envelope(failure=result))
    return msgspec.msgpack.encode(_Envelope(report=result))
