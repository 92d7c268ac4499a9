"""A push: from uploaded blobs to an examined, stored version."""

import asyncio
import tempfile
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from salver.artifact.declare import Declaration, declare
from salver.artifact.manifest import FileEntry, Manifest
from salver.client.packing import check_path
from salver.control.audit import Audit
from salver.control.database import DatabaseThread
from salver.control.rollouts.placing import NOBODY
from salver.core.errors import DigestMismatch, InvalidArtifact
from salver.core.names import check_name
from salver.core.sequences import Sequences
from salver.core.settings import Settings
from salver.core.steps import Steps
from salver.engine.materialize import materialize
from salver.engine.probe import ProbeReport, ProbeRequest, probe
from salver.registry.blobs import BlobStore
from salver.registry.catalog import Catalog
from salver.registry.lease import Lease
from salver.registry.records import VersionRecord
from salver.runtimes.table import is_code
from salver.wire.messages import FileRef

_MAX_EXAMPLE_BYTES = 64 * 1024 * 1024
_PROBES_AT_ONCE = 1
_MOST_NAMED = 10


class MoveAlias(Protocol):
    """Points a model's alias to a version, for whoever pushes."""

    def __call__(self, model: str, alias: str, version: int, *, by: str) -> Awaitable[object]:
        """Raise what the gates of the endpoints that follow it refuse with."""
        ...


class Document(msgspec.Struct, frozen=True):
    """An example or golden file, uploaded as a blob."""

    name: str
    sha256: str


class Push(msgspec.Struct, frozen=True):
    """What somebody wants to be a version."""

    model: str
    files: tuple[FileEntry, ...]
    runtime: str = ""
    example: Document | None = None
    golden: Document | None = None
    alias: str = ""
    labels: dict[str, str] = {}
    trust_pickle: bool = False
    trust_code: bool = False
    provenance: dict[str, str] = {}
    columns: dict[str, Declaration] = {}
    steps: Steps | None = None
    sequences: Sequences | None = None


class Pushed(msgspec.Struct, frozen=True):
    """The version, whether it was there before, and what its owner should know."""

    record: VersionRecord
    existing: bool
    warnings: tuple[str, ...]


class Pusher:
    """Examines and stores versions, one examination at a time.

    ``move_alias`` points a model's alias to a version. Both are in the audit log, a version also
    where its alias is refused. On standby, as the ``lease`` says, it is told where the bytes are.
    """

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        database: DatabaseThread,
        settings: Settings,
        move_alias: MoveAlias,
        audit: Audit,
        lease: Lease,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._database = database
        self._settings = settings
        self._move_alias = move_alias
        self._audit = audit
        self._lease = lease
        self._slots = asyncio.Semaphore(_PROBES_AT_ONCE)

    async def __call__(self, push: Push) -> Pushed:
        """Make a version of uploaded files; raises the domain error that says what is wrong."""
        check_name(push.model, "model")
        if push.alias:
            check_name(push.alias, "alias")
        await asyncio.to_thread(self._check_files, push.files)
        # An examination takes a while, and would be for nothing.
        await self._database(self._catalog.reach)
        async with self._slots:
            report = await self._examine(push)
        manifest = self._manifest(push, report)
        # From here to the commit takes seconds, however long ago the bytes came.
        await asyncio.to_thread(self._hold, push.files)
        user = push.provenance.get("user", "")
        record, fresh = await self._database(
            lambda: self._catalog.create_version(push.model, manifest, user, push.labels)
        )
        await self._audit("push", record.id, NOBODY, digest=record.digest, **_trusted(record))
        if push.alias:
            by, version = user or NOBODY, str(record.version)
            await self._move_alias(push.model, push.alias, record.version, by=by)
            await self._audit("alias", f"{push.model}@{push.alias}", by, version=version)
        warnings = (*report.warnings, *_stale(push, manifest, record), *_elsewhere(self._lease))
        return Pushed(record, not fresh, warnings)

    def _check_files(self, files: tuple[FileEntry, ...]) -> None:
        most = self._settings.control.max_files
        if not 0 < len(files) <= most:
            raise InvalidArtifact(f"an artifact has 1 to {most} files, not {len(files)}")
        if len({file.path for file in files}) != len(files):
            raise InvalidArtifact("two files have the same path")
        for file in files:
            check_path(file.path)
            size = self._blobs.size(file.sha256) if self._blobs.hold(file.sha256) else None
            if size == file.size_bytes:
                continue
            if size is not None and self._blobs.verify(file.sha256):
                raise InvalidArtifact(f"{file.path!r} has {size} bytes, not {file.size_bytes}")
            self._check_all(files)

    def _hold(self, files: tuple[FileEntry, ...]) -> None:
        """Let nobody take the bytes for unneeded before the version that names them is stored."""
        held = [self._blobs.hold(file.sha256) for file in files]
        if not all(held):
            self._check_all(files)

    def _check_all(self, files: tuple[FileEntry, ...]) -> None:
        """Name all files that are lacking at once, so that one more upload repairs them."""
        lacking = [repr(file.path[:200]) for file in files if not self._blobs.verify(file.sha256)]
        if lacking:
            more = len(lacking) - _MOST_NAMED
            names = ", ".join(lacking[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
            raise DigestMismatch(f"the stored bytes of {names} are missing or damaged; upload them")

    def _materialize(self, push: Push, folder: Path) -> None:
        files, runs_code = push.files, push.trust_code or push.trust_pickle
        refs = tuple(FileRef(f.path, f.sha256, f.size_bytes) for f in files)
        try:
            materialize(refs, self._blobs.root, folder, runs_code=runs_code)
        except DigestMismatch:
            self._check_all(files)
            raise

    async def _examine(self, push: Push) -> ProbeReport:
        example, golden = self._document(push.example), self._document(push.golden)
        with tempfile.TemporaryDirectory(prefix="salver-push-") as scratch:
            folder = Path(scratch, "artifact")
            await asyncio.to_thread(self._materialize, push, folder)
            request = ProbeRequest(
                str(folder),
                push.runtime,
                example,
                push.example.name if push.example is not None else "",
                golden,
                push.trust_pickle,
                push.trust_code,
                self._settings.engine.threads,
                self._settings.engine.probe_memory_bytes,
                push.steps,
                self._settings.engine.step_bytes,
                push.sequences,
            )
            return await probe(request, self._settings.engine)

    def _document(self, document: Document | None) -> bytes:
        if document is None:
            return b""
        return self._blobs.read(document.sha256, _MAX_EXAMPLE_BYTES)

    def _manifest(self, push: Push, report: ProbeReport) -> Manifest:
        golden = self._blobs.put(report.golden) if report.golden else ""
        return Manifest(
            report.runtime,
            tuple(sorted(push.files, key=lambda file: file.path)),
            declare(report.signature, push.columns),
            max_batch_size=report.max_batch_size,
            batching_note=report.batching_note,
            golden=golden,
            trust_pickle=push.trust_pickle,
            trust_code=is_code(report.runtime),
            steps=push.steps,
            resident_bytes=report.resident_bytes,
            provenance={**push.provenance, **report.frameworks},
            sequences=report.sequences,
            most_rows=report.most_rows,
        )


def _stale(push: Push, manifest: Manifest, record: VersionRecord) -> Iterator[str]:
    """Say that a version which was there before keeps what was declared of it then."""
    if push.columns and record.manifest.signature != manifest.signature:
        yield (
            f"these bytes are {record.id} already; a version is immutable, so its columns stay as "
            "they were declared then"
        )
    if push.sequences is not None and record.manifest.sequences != manifest.sequences:
        yield (
            f"these bytes are {record.id} already; a version is immutable, so its sequences stay "
            "as they were declared then"
        )
    rows = record.manifest.max_batch_size
    if rows != manifest.max_batch_size:
        yield (
            f"these bytes are {record.id} already; a version is immutable, so batches of up to "
            f"{rows} rows stay as they were found then, whatever is said of batching here; "
            "'salver deploy --max-batch-size' sets fewer for an endpoint"
        )
    if push.golden and record.manifest.golden != manifest.golden:
        yield (
            f"these bytes are {record.id} already; a version is immutable, so its golden examples "
            "stay those of then; the ones given were met once, and are not asked at deploys"
        )


def _elsewhere(lease: Lease) -> Iterator[str]:
    """Say on standby that the control in charge may lack the bytes of the version."""
    if not lease.fence and lease.other:
        yield (
            f"this control is on standby for {lease.other!r}, and the bytes lie in its own folder; "
            "unless both homes share one, the other lacks them until this is pushed there too"
        )


def _trusted(record: VersionRecord) -> dict[str, str]:
    """Return what the audit log shall remember of code that somebody trusted."""
    manifest = record.manifest
    word = "code" if manifest.trust_code else "pickle" if manifest.trust_pickle else ""
    return {"trusted": word} if word else {}
