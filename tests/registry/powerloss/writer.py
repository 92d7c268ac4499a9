"""The recorded process: pushes and alias moves, each acknowledged in the record itself.

Arguments: folder, number of steps, and the value of PRAGMA synchronous to use, or nothing.
"""

import json
import sys
from pathlib import Path

import sqlalchemy as sa

from salver.artifact.manifest import FileEntry, Manifest
from salver.core.signature import Signature
from tests.registry.kill_trial import ALIAS, MODEL, open_registry


def main(folder: Path, steps: int, synchronous: str) -> None:
    """Write, and say after each write that it was acknowledged."""
    blobs, catalog, database = open_registry(folder)
    if synchronous:

        @sa.event.listens_for(database.engine, "checkout")
        def weaken(connection: object, *_: object) -> None:
            connection.execute(f"PRAGMA synchronous={synchronous}")  # type: ignore[attr-defined]

    with (folder / "acknowledged").open("ab", buffering=0) as told:
        for step in range(steps):
            content = f"content {step} ".encode() * 100
            sha256 = blobs.put(content)
            entry = FileEntry("m.onnx", sha256, len(content))
            manifest = Manifest("onnx", (entry,), Signature((), ()))
            record, _ = catalog.create_version(MODEL, manifest, "trial", {})
            fact = {"version": record.version, "digest": record.digest}
            told.write(json.dumps(fact).encode() + b"\n")
            catalog.set_alias(MODEL, ALIAS, record.version)
            told.write(json.dumps({"alias": record.version}).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
