"""Writes to a registry in children that are killed at random moments; run as its own process.

Arguments: folder, rounds, seed. Every child registers versions and moves an alias, and says so
through a pipe only after each write has returned. Prints one JSON object: the rounds, the writes
acknowledged, and every acknowledged write that is not there.
"""

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from salver.artifact.manifest import FileEntry, Manifest
from salver.core.clock import SystemClock
from salver.core.signature import Signature
from salver.registry.blobs import BlobStore
from salver.registry.catalog import Catalog
from salver.registry.database import Database
from tests.registry.stored import stored_alias

MODEL, ALIAS = "churn", "champion"
LONGEST_LIFE_S = 0.06


def open_registry(folder: Path) -> tuple[BlobStore, Catalog, Database]:
    """Open the registry as control does when it starts."""
    database = Database(f"sqlite:///{folder / 'salver.db'}")
    database.provision()
    blobs = BlobStore(folder / "blobs" / "sha256")
    blobs.provision()
    return blobs, Catalog(database, SystemClock()), database


def write(folder: Path, number: int, acknowledgements: int) -> None:
    """Push and move the alias until killed."""
    blobs, catalog, _ = open_registry(folder)
    step = 0
    while True:
        content = f"{number}-{step}".encode() * 50
        sha256 = blobs.put(content)
        manifest = Manifest("onnx", (FileEntry("m.onnx", sha256, len(content)),), Signature((), ()))
        record, _ = catalog.create_version(MODEL, manifest, "trial", {})
        _say(acknowledgements, {"version": record.version, "digest": record.digest})
        catalog.set_alias(MODEL, ALIAS, record.version)
        _say(acknowledgements, {"alias": record.version})
        step += 1


def _say(descriptor: int, fact: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(fact).encode() + b"\n")


def trial(folder: Path, number: int, rng: random.Random) -> list[dict[str, Any]]:
    """Run one child until a random moment after its first acknowledgement; return all of them."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        write(folder, number, writer)
    os.close(writer)
    select.select([reader], [], [], 10)
    time.sleep(rng.random() * LONGEST_LIFE_S)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with open(reader, "rb") as pipe:
        lines = pipe.read().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]


def lost(folder: Path, facts: list[dict[str, Any]]) -> list[str]:
    """Return what was acknowledged and is not there, and whatever else is wrong."""
    blobs, catalog, database = open_registry(folder)
    problems: list[str] = []
    model = catalog.model(MODEL)
    digests = {record.version: record.digest for record in model.versions}
    problems += [
        f"version {fact['version']}"
        for fact in facts
        if "version" in fact and digests.get(fact["version"]) != fact["digest"]
    ]
    moves = [fact["alias"] for fact in facts if "alias" in fact]
    # The last move may have been made and not yet acknowledged when the kill came.
    if moves and model.aliases.get(ALIAS, 0) < max(moves):
        problems.append(f"alias move to {max(moves)}")
    if model.aliases and model.aliases[ALIAS] not in digests:
        problems.append("the alias points to no version")
    problems += [
        f"bytes of version {record.version}"
        for record in model.versions
        for file in record.manifest.files
        if not blobs.verify(file.sha256)
    ]
    database.close()
    return problems


def misled(folder: Path, facts: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the alias after one kill, before the next child moves it."""
    moves = [fact["alias"] for fact in facts if "alias" in fact]
    version, exists = stored_alias(folder, MODEL, ALIAS)
    # Versions are counted up, and one move may have been made and not yet acknowledged.
    if moves and (version is None or version < moves[-1]):
        return [f"alias to {version}, the last acknowledged move was to {moves[-1]}"]
    return [] if exists else [f"alias to {version}, which is missing"]


def main(folder: Path, rounds: int, seed: int) -> None:
    """Kill and check, again and again."""
    rng = random.Random(seed)
    facts: list[dict[str, Any]] = []
    problems: list[str] = []
    open_registry(folder)[2].close()
    for number in range(rounds):
        facts += trial(folder, number, rng)
        problems += misled(folder, facts)
        if number % 50 == 49:
            problems += lost(folder, facts)
    print(json.dumps({"rounds": rounds, "acknowledged": len(facts), "lost": problems}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
