"""The paths of the control API."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from salver.artifact.declare import Declaration
from salver.artifact.golden import MAX_GOLDEN_BYTES
from salver.artifact.manifest import FileEntry, to_json
from salver.control.api.bodies import (
    PRINTABLE,
    AliasBody,
    ColumnBody,
    DocumentBody,
    EndpointBody,
    FeedbackBody,
    PushBody,
    SequencesBody,
)
from salver.control.api.rollouts import rollout_router
from salver.control.api.sides import side_router
from salver.control.api.specs import (
    ApplyBody,
    EndpointFile,
    document_of,
    read_files,
    spec_of,
)
from salver.control.apply import Applier, changes, error_of, settled
from salver.control.audit import Audit
from salver.control.database import DatabaseThread
from salver.control.deploy import Deployer
from salver.control.feedback import Feedback
from salver.control.overview import Overview
from salver.control.push import Document, Push, Pushed, Pusher
from salver.control.reconcile import Reconciler
from salver.control.rollouts.commands import Rollouts
from salver.control.rollouts.side_reports import SideReports
from salver.core.errors import NotFound
from salver.core.feedback import Reported
from salver.core.names import ModelReference, check_name
from salver.core.sequences import PaddedInput, Sequences
from salver.core.settings import ControlSettings
from salver.core.signature import TensorSpec
from salver.core.steps import read_steps
from salver.observe.prometheus import CONTENT_TYPE
from salver.registry.blobs import BlobStore, check_digest
from salver.registry.catalog import Catalog
from salver.registry.records import ModelRecord, VersionRecord
from salver.registry.state import StateStore

_CREATED, _NO_CONTENT, _OK = 201, 204, 200
_ACTOR = "local"
_AT_ONCE = 20

Name = Annotated[str, Path(max_length=128)]
By = Annotated[str, Query(min_length=1, max_length=128, pattern=PRINTABLE)]


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes call."""

    blobs: BlobStore
    catalog: Catalog
    state: StateStore
    database: DatabaseThread
    pusher: Pusher
    deployer: Deployer
    reconciler: Reconciler
    overview: Overview
    feedback: Feedback
    settings: ControlSettings
    rollouts: Rollouts
    sides: SideReports
    audit: Audit

    async def record(self, action: str, subject: str, by: str = _ACTOR, **details: str) -> None:
        """Append to the audit log."""
        await self.audit(action, subject, by, **details)


def build_router(services: Services) -> APIRouter:
    """Return everything below ``/api/v1``."""
    router = APIRouter()
    _blob_routes(router, services)
    _model_routes(router, services)
    _endpoint_routes(router, services)
    router.include_router(rollout_router(services.rollouts))
    router.include_router(side_router(services.sides))
    _file_routes(router, services)
    _feedback_routes(router, services)

    @router.get("/status")
    async def status() -> dict[str, Any]:
        return await services.overview.status()

    @router.get("/workers")
    async def workers() -> list[dict[str, Any]]:
        return services.overview.workers()

    @router.get("/events")
    async def events(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        records = await services.database(lambda: services.state.events(limit))
        return [
            {
                "unix_ms": record.unix_ms,
                "actor": record.actor,
                "action": record.action,
                "subject": record.subject,
                "details": record.details,
            }
            for record in records
        ]

    return router


def root_router(services: Services) -> APIRouter:
    """Return what monitoring asks, without a token."""
    router = APIRouter()

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(await services.overview.metrics(), media_type=CONTENT_TYPE)

    @router.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    return router


def _blob_routes(router: APIRouter, services: Services) -> None:
    blobs = services.blobs

    def held(sha256: str) -> int | None:
        return blobs.size(sha256) if blobs.hold(sha256) else None

    @router.head("/blobs/{sha256}")
    async def has_blob(sha256: str) -> Response:
        # Whoever hears that it is stored will not send it, and may name it in a version much later.
        # That is written down, which may take as long as the syncing of somebody's upload.
        size = await asyncio.to_thread(held, check_digest(sha256))
        if size is None:
            raise NotFound(f"blob {sha256} is not stored")
        return Response(headers={"x-salver-size": str(size)})

    @router.put("/blobs/{sha256}")
    async def put_blob(sha256: str, request: Request) -> dict[str, Any]:
        # A stored blob is verified first, which takes long for a large one.
        max_bytes = services.settings.max_upload_bytes
        with await asyncio.to_thread(blobs.begin, sha256, max_bytes) as writer:
            async for chunk in request.stream():
                writer.write(chunk)
            # Syncing a large file takes long; other calls go on meanwhile.
            size = await asyncio.to_thread(writer.commit)
        return {"sha256": sha256, "size_bytes": size}


def _model_routes(router: APIRouter, services: Services) -> None:
    catalog, database = services.catalog, services.database

    @router.post("/models/{name}/versions")
    async def push(name: Name, body: PushBody, response: Response) -> dict[str, Any]:
        pushed = await services.pusher(_push(name, body))
        response.status_code = _OK if pushed.existing else _CREATED
        return _pushed(pushed)

    @router.get("/models")
    async def models() -> list[dict[str, Any]]:
        names, sizes = await database(lambda: (catalog.names(), catalog.sizes()))
        found: list[dict[str, Any]] = []
        # Others take their turns at the database in between.
        for start in range(0, len(names), _AT_ONCE):
            some = partial(catalog.several, names[start : start + _AT_ONCE])
            found += [_model(record, sizes) for record in await database(some)]
        return found

    @router.get("/models/{name}")
    async def model(name: Name) -> dict[str, Any]:
        check_name(name, "model")
        record, sizes = await database(lambda: (catalog.model(name), catalog.sizes()))
        return _model(record, sizes)

    @router.get("/models/{name}/versions/{version}")
    async def version(name: Name, version: Annotated[int, Path(ge=1)]) -> Response:
        reference = ModelReference(check_name(name, "model"), version)
        record = await database(lambda: catalog.resolve(reference))
        return Response(to_json(record.manifest), media_type="application/json")

    @router.get("/models/{name}/versions/{version}/golden")
    async def golden(name: Name, version: Annotated[int, Path(ge=1)]) -> Response:
        reference = ModelReference(check_name(name, "model"), version)
        record = await database(lambda: catalog.resolve(reference))
        if not record.manifest.golden:
            raise NotFound(f"{record.id} has no golden examples")
        digest = record.manifest.golden
        data = await asyncio.to_thread(services.blobs.read, digest, MAX_GOLDEN_BYTES)
        return Response(data, media_type="application/x-ndjson")

    @router.put("/models/{name}/aliases/{alias}")
    async def set_alias(
        name: Name, alias: Name, body: AliasBody, force: bool = False, by: By = _ACTOR
    ) -> dict[str, Any]:
        check_name(name, "model")
        stay = await services.deployer.move_alias(name, alias, body.version, force=force, by=by)
        await services.record("alias", f"{name}@{alias}", by, version=str(body.version))
        return {"name": name, "alias": alias, "version": body.version, "stay": stay}

    @router.delete("/models/{name}/aliases/{alias}", status_code=_NO_CONTENT)
    async def delete_alias(name: Name, alias: Name) -> None:
        await services.deployer.delete_alias(name, alias)
        await services.record("delete_alias", f"{name}@{alias}")


def _endpoint_routes(router: APIRouter, services: Services) -> None:
    deployer = services.deployer

    @router.get("/endpoints")
    async def endpoints() -> list[dict[str, Any]]:
        return deployer.describe()

    @router.get("/endpoints/{name}")
    async def endpoint(name: Name) -> dict[str, Any]:
        return deployer.one(name)

    @router.put("/endpoints/{name}")
    async def put_endpoint(
        name: Name,
        body: EndpointBody,
        wait: bool = False,
        force: bool = False,
        timeout_s: Annotated[float | None, Query(gt=0, le=3600)] = None,
        by: By = _ACTOR,
    ) -> dict[str, Any]:
        wanted = spec_of(name, body)
        spec = await deployer.put(wanted, body.model, force=force, by=by)
        asked = {} if body.approvals is None else {"approvals": str(body.approvals)}
        await services.record("deploy", name, by, model=body.model, **asked)
        if wait:
            await deployer.wait(spec, timeout_s or services.settings.deploy_timeout_s)
            return deployer.one(name)
        return {"name": name, "generation": spec.generation}

    @router.delete("/endpoints/{name}", status_code=_NO_CONTENT)
    async def delete_endpoint(name: Name, force: bool = False, by: By = _ACTOR) -> None:
        await deployer.remove(name, force=force)
        await services.record("undeploy", name, by)


def _file_routes(router: APIRouter, services: Services) -> None:
    applier = Applier(services.deployer, services.record)

    @router.post("/apply")
    async def apply(body: ApplyBody) -> dict[str, Any]:
        wanted, problems = read_files(body.documents)
        present = await services.database(services.state.endpoints)
        documents = {spec.name: document_of(spec) for spec in present}
        wanted = settled(wanted, documents)
        todo = changes(
            wanted,
            documents,
            [spec.name for spec in present if spec.managed],
            # What a file that cannot be read is about is not known.
            prune=body.prune and not problems,
        )
        found = await applier.problems(wanted, todo, body.by, body.force)
        error = error_of(problems + found)
        if error is not None and (problems or not body.dry_run):
            raise error
        if not body.dry_run:
            wait_s = body.timeout_s if body.wait else None
            await applier(wanted, todo, wait_s, body.by, body.force)
        refused = None if error is None else {"error": error.message, "code": error.code}
        done = msgspec.to_builtins(todo)
        return {"dry_run": body.dry_run, "changes": done, "refused": refused}

    @router.get("/schemas/endpoint")
    async def endpoint_schema() -> dict[str, Any]:
        return EndpointFile.model_json_schema()


def _feedback_routes(router: APIRouter, services: Services) -> None:
    @router.post("/endpoints/{name}/feedback")
    async def report(name: Name, body: FeedbackBody) -> dict[str, Any]:
        reports = [
            Reported(item.request_id, float(item.value), item.metric) for item in body.reports
        ]
        return dict(msgspec.to_builtins(await services.feedback.take(name, reports)))


def _push(name: str, body: PushBody) -> Push:
    return Push(
        name,
        tuple(FileEntry(file.path, file.sha256, file.size_bytes) for file in body.files),
        body.runtime or "",
        _document(body.example),
        _document(body.golden),
        body.alias or "",
        body.labels,
        body.trust_pickle,
        body.trust_code,
        body.provenance,
        {name: _declaration(column) for name, column in body.columns.items()},
        None if body.steps is None else read_steps(body.steps),
        None if body.sequences is None else _sequences(body.sequences),
    )


def _sequences(body: SequencesBody) -> Sequences:
    inputs = [PaddedInput(name, item.axis, item.pad) for name, item in body.inputs.items()]
    return Sequences(tuple(inputs), body.mask)


def _declaration(body: ColumnBody) -> Declaration:
    categories = None if body.categories is None else tuple(body.categories)
    return Declaration(body.minimum, body.maximum, categories, body.sensitive)


def _document(body: DocumentBody | None) -> Document | None:
    return None if body is None else Document(body.name, body.sha256)


def _pushed(pushed: Pushed) -> dict[str, Any]:
    record = pushed.record
    manifest = record.manifest
    return {
        **_version(record),
        "name": record.model,
        "existing": pushed.existing,
        "max_batch_size": manifest.max_batch_size,
        "sequences": [item.name for item in manifest.sequences.inputs]
        if manifest.sequences is not None
        else [],
        "signature": {
            "inputs": _tensors(manifest.signature.inputs),
            "outputs": _tensors(manifest.signature.outputs),
        },
        "warnings": list(pushed.warnings),
    }


def _tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(spec.shape),
            "columns": [column.name for column in spec.columns],
        }
        for spec in specs
    ]


def _version(record: VersionRecord) -> dict[str, Any]:
    return {
        "version": record.version,
        "digest": record.digest,
        "runtime": record.manifest.runtime,
        "created_unix_ms": record.created_unix_ms,
        "created_by": record.created_by,
        "labels": record.labels,
        "size_bytes": record.manifest.size_bytes,
    }


def _model(record: ModelRecord, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": record.name,
        "versions": [
            {**_version(version), "memory_bytes": sizes.get(version.id)}
            for version in record.versions
        ],
        "aliases": record.aliases,
    }
