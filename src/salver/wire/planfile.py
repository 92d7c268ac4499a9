"""The plan on disk, from which the data plane starts when control is away."""

from pathlib import Path

import msgspec

from salver.core.durable import durable_write
from salver.wire.messages import Plan

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Plan)


def write_plan(path: Path, plan: Plan) -> None:
    """Replace the plan durably; raises ``StorageFull`` when the disk has no room."""
    durable_write(path, _encoder.encode(plan))


def read_plan(path: Path) -> Plan | None:
    """Return the plan, or None when there is none or it cannot be read by this version.

    Writes are atomic, so an unreadable plan comes from another version; control sends a new one.
    """
    try:
        return _decoder.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
