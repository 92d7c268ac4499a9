"""Calls to the control API: push, deploy, look, change."""

import hashlib
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from salver.client.calls import API, CONTROL, Call, Steps, admin_call, check, json_of
from salver.client.columns import Columns, read_columns, read_sequences
from salver.client.documents import read_documents, read_list, read_mapping
from salver.client.packing import PackedFile, pack
from salver.client.rollouts import RolloutOptions, Webhooks, policy_of, whoever
from salver.core.errors import DigestMismatch, InvalidExample, NotFound
from salver.core.names import check_name, parse_reference
from salver.core.steps import check_whole_numbers

_GIT_TIMEOUT_S = 5
_NOT_FOUND_STATUS = 404
_FAILED_STATUS = 400
_PUSH_TIMEOUT_S = 900.0
_DEPLOY_MARGIN_S = 30.0
_MAX_EXAMPLE_BYTES = 64 * 1024 * 1024
_DOCUMENTS = 2

Json = dict[str, Any]
Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What may be said of a push besides its files and name."""

    runtime: str | None = None
    example: str | Path | None = None
    golden: str | Path | None = None
    alias: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    trust_pickle: bool = False
    trust_code: bool = False
    columns: str | Path | Columns | None = None
    steps: str | Path | Mapping[str, Any] | None = None
    sequence: str | Path | Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """How an endpoint shall serve a model; None is the server's own choice.

    ``timeout_s`` is how long to wait until it answers, ``request_timeout_s`` how long a request may
    take that does not say so itself. ``rollout`` is how an endpoint that follows an alias changes
    over when that moves; without it does so at once. ``force`` passes the gates that can be passed.
    With ``max_replicas`` their number follows ``scale_on``: concurrency, queue or rate.
    ``approvals`` is how many people must approve of later versions, ``webhooks`` who is told of
    rollouts, or a file that says it; both stay as they were where nothing is said of them.
    """

    endpoint: str | None = None
    replicas: int = 1
    validation: str = "off"
    timeout_s: float = 120.0
    max_batch_size: int | None = None
    max_queue: int | None = None
    request_timeout_s: float | None = None
    max_batch_tokens: int | None = None
    max_queue_delay_ms: float | None = None
    priorities: bool | None = None
    batching: str | None = None
    objective_ms: float | None = None
    max_padding: float | None = None
    cache: bool | None = None
    pin: bool = False
    routing: str | Path | Mapping[str, Any] | None = None
    routing_key: str | None = None
    rollout: RolloutOptions | None = None
    force: bool = False
    min_replicas: int | None = None
    max_replicas: int | None = None
    scale_on: str | None = None
    scale_target: float | None = None
    scale_down_delay_s: float | None = None
    hosting: str | None = None
    instances: int | None = None
    threads: int | None = None
    cpus: str | None = None
    memory_limit_bytes: int | None = None
    gpu: int | None = None
    provider: str | None = None
    idle_s: float | None = None
    warm_up: bool = True
    approvals: int | None = None
    webhooks: Webhooks | None = None


_POLICY = (
    "max_batch_size", "max_queue", "max_batch_tokens", "max_queue_delay_ms", "priorities",
    "batching", "objective_ms", "max_padding", "cache", "min_replicas", "max_replicas", "scale_on",
    "scale_target", "scale_down_delay_s", "hosting", "instances", "threads", "cpus",
    "memory_limit_bytes", "gpu", "provider", "idle_s", "approvals",
)  # fmt: skip


def push(path: Path, name: str, options: PushOptions, progress: Progress) -> Steps[Json]:
    """Upload the files that the server lacks, then register them as a version.

    ``progress`` is told each file and its size when it is there. Returns the version. Raises
    ``InvalidArtifact`` for links and special files, and whatever the server refuses with. What the
    server finds damaged where it is stored is uploaded again, until it finds no more.
    """
    check_name(name, "model")
    columns = {} if options.columns is None else read_columns(options.columns)
    steps = None if options.steps is None else read_mapping(options.steps)
    check_whole_numbers(steps)
    sequences = None if options.sequence is None else read_sequences(options.sequence)
    files = pack(path)
    yield from _upload_all(files, progress)
    body: Json = {
        "files": [
            {"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes}
            for file in files
        ],
        "labels": dict(options.labels),
        "trust_pickle": options.trust_pickle,
        "trust_code": options.trust_code,
        "provenance": provenance(path),
    }
    if columns:
        body["columns"] = columns
    if steps is not None:
        body["steps"] = steps
    if sequences is not None:
        body["sequences"] = sequences
    if options.runtime is not None:
        body["runtime"] = options.runtime
    if options.alias is not None:
        body["alias"] = check_name(options.alias, "alias")
    body.update((yield from _upload_documents(options)))
    call = admin_call("POST", f"/models/{name}/versions", body, _PUSH_TIMEOUT_S)
    for _ in range(len(files) + _DOCUMENTS):
        try:
            version: Json = json_of((yield call))
        except DigestMismatch:
            # The server now knows which bytes are damaged, and lacks them.
            if not (yield from _repair(files, options)):
                raise
        else:
            return version
    version = json_of((yield call))
    return version


def deploy(reference: str, options: DeployOptions) -> Steps[Json]:
    """Make an endpoint serve a model and wait until it answers."""
    model = parse_reference(reference)
    endpoint = check_name(options.endpoint or model.name, "endpoint")
    body: Json = {
        "model": str(model),
        "replicas": options.replicas,
        "validation": options.validation,
    }
    if options.request_timeout_s is not None:
        body["timeout_s"] = options.request_timeout_s
    for key in _POLICY:
        value = getattr(options, key)
        if value is not None:
            body[key] = value
    if options.pin:
        body["pinned"] = True
    routing = {} if options.routing is None else dict(read_mapping(options.routing))
    if options.routing_key is not None:
        routing["key"] = options.routing_key
    if routing:
        body["routing"] = routing
    if not options.warm_up:
        body["warm_up"] = False
    if options.rollout is not None:
        body["rollout"] = policy_of(options.rollout)
    if options.webhooks is not None:
        body["webhooks"] = read_list(options.webhooks, "webhooks")
    path = f"/endpoints/{endpoint}?wait=true&timeout_s={options.timeout_s:g}&{_by()}"
    path += "&force=true" * options.force
    reply = yield admin_call("PUT", path, body, options.timeout_s + _DEPLOY_MARGIN_S)
    answer: Json = json_of(reply)
    return answer


def undeploy(endpoint: str, *, force: bool) -> Steps[None]:
    """Remove an endpoint; its versions stay in the registry."""
    path = f"/endpoints/{check_name(endpoint, 'endpoint')}?{_by()}" + "&force=true" * force
    check((yield admin_call("DELETE", path)))


def set_alias(model: str, alias: str, version: int, *, force: bool) -> Steps[Json]:
    """Point ``MODEL@ALIAS`` to a version."""
    path = f"/models/{check_name(model, 'model')}/aliases/{check_name(alias, 'alias')}?{_by()}"
    path += "&force=true" * force
    answer: Json = json_of((yield admin_call("PUT", path, {"version": version})))
    return answer


def listing(what: str) -> Steps[list[Json]]:
    """Return all ``models``, ``endpoints`` or ``workers``."""
    answer: list[Json] = json_of((yield admin_call("GET", f"/{what}")))
    return answer


def status() -> Steps[Json]:
    """Return what the server says of itself."""
    answer: Json = json_of((yield admin_call("GET", "/status")))
    return answer


def _by() -> str:
    return urlencode({"by": whoever()})


def provenance(path: Path) -> dict[str, str]:
    """Say who pushes, from where, and which git commit the model's folder is at."""
    facts = {"user": whoever(), "host": platform.node()}
    folder = path if path.is_dir() else path.parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        facts["git_commit"] = commit
        facts["git_dirty"] = "true" if _git(folder, "status", "--porcelain") else "false"
    return facts


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _upload_all(files: Sequence[PackedFile], progress: Progress) -> Steps[None]:
    for file in files:
        yield from _upload(file.source, file.sha256, file.size_bytes)
        progress(file.path, file.size_bytes)


def _repair(files: Sequence[PackedFile], options: PushOptions) -> Steps[int]:
    """Upload what the server lacks by now; returns how many files that were."""
    count = 0
    for file in files:
        count += yield from _upload(file.source, file.sha256, file.size_bytes)
    for document in (options.example, options.golden):
        if document is not None:
            sha256, size_bytes = _measure(Path(document))
            count += yield from _upload(Path(document), sha256, size_bytes)
    return count


def _upload(source: Path, sha256: str, size_bytes: int) -> Steps[bool]:
    """Upload a file that the server lacks; tells whether it did."""
    path = f"{API}/blobs/{sha256}"
    present = yield Call("HEAD", CONTROL, path)
    is_cut = present.headers.get("x-salver-size", str(size_bytes)) != str(size_bytes)
    if is_cut or present.status == _NOT_FOUND_STATUS:
        headers = {"content-type": "application/octet-stream"}
        check((yield Call("PUT", CONTROL, path, headers, source, _PUSH_TIMEOUT_S)))
        return True
    if present.status >= _FAILED_STATUS:
        # An answer to HEAD has no body that says why.
        check((yield admin_call("GET", "/status")))
    check(present)
    return False


def _upload_documents(options: PushOptions) -> Steps[Json]:
    documents: Json = {}
    for key, document in (("example", options.example), ("golden", options.golden)):
        if document is not None:
            documents[key] = yield from _upload_document(Path(document))
    return documents


def _upload_document(path: Path) -> Steps[Json]:
    sha256, size_bytes = _measure(path)
    yield from _upload(path, sha256, size_bytes)
    return {"name": path.name, "sha256": sha256}


def _measure(path: Path) -> tuple[str, int]:
    """Return the digest and size of an example or golden file."""
    try:
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_EXAMPLE_BYTES:
            raise InvalidExample(
                f"{path} has {size_bytes} bytes; an example holds a few rows, at most "
                f"{_MAX_EXAMPLE_BYTES} bytes"
            )
        return hashlib.sha256(path.read_bytes()).hexdigest(), size_bytes
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error


def apply(
    paths: Sequence[str | Path],
    *,
    dry_run: bool = False,
    prune: bool = False,
    wait: bool = True,
    timeout_s: float = 120.0,
    force: Sequence[str] = (),
) -> Steps[Json]:
    """Make endpoints what YAML or JSON files say; folders are read with what is in them.

    Returns the changes, which with ``dry_run`` are not made: ``refused`` then says what stands
    against them (code and error), None if nothing does. With ``prune``, endpoints that came
    from files before and are in none now are removed. ``force`` names endpoints that change or go
    as with ``deploy`` and ``undeploy`` when those are forced.
    """
    documents = [
        {"source": source, "document": document}
        for path in paths
        for source, document in read_documents(Path(path))
    ]
    body: Json = {
        "documents": documents,
        "by": whoever(),
        "dry_run": dry_run,
        "prune": prune,
        "wait": wait,
        "timeout_s": timeout_s,
        **({"force": list(force)} if force else {}),
    }
    longest_s = timeout_s * max(1, len(documents)) + _DEPLOY_MARGIN_S
    answer: Json = json_of((yield admin_call("POST", "/apply", body, longest_s)))
    return answer
