"""Endpoints as people write them down: from a body or a file to what is wanted, and back."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from salver.control.api.bodies import (
    PRINTABLE,
    EndpointBody,
    Person,
    RolloutPolicyBody,
    WebhookBody,
)
from salver.control.api.shapes import Body
from salver.control.apply import Problem, Wanted
from salver.core.errors import InvalidName, InvalidRequest
from salver.core.hosting import Hosting
from salver.core.names import check_name, parse_reference
from salver.core.rollouts import MAX_APPROVALS
from salver.core.routing import read_routing
from salver.core.webhooks import MAX_WEBHOOKS
from salver.registry.records import EndpointSpec

_OWN_WAY = {"model", "routing", "rollout", "hosting", "webhooks"}
_SHARED = sorted((set(EndpointSpec.__struct_fields__) & set(EndpointBody.model_fields)) - _OWN_WAY)
MAX_FILES = 1000


EndpointName = Annotated[str, Field(min_length=1, max_length=128, pattern=PRINTABLE)]


class EndpointFile(EndpointBody):
    """A file that says how an endpoint shall be; what it leaves out has its default."""

    kind: Literal["Endpoint"]
    name: str = Field(max_length=128)
    validation: Literal["off", "warn", "reject"] = "off"
    batching: Literal["fixed", "adaptive"] = "fixed"
    scale_on: Literal["concurrency", "rate", "queue"] = "concurrency"
    hosting: Literal["auto", "shared", "dedicated"] = "auto"
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    approvals: int | None = Field(default=0, ge=0, le=MAX_APPROVALS)
    webhooks: list[WebhookBody] | None = Field(default_factory=list, max_length=MAX_WEBHOOKS)

    @field_validator("approvals", "webhooks", mode="before")
    @classmethod
    def _whole(cls, value: Any, info: ValidationInfo) -> Any:
        """Take nothing for none: elsewhere it means as before, and a file is the whole truth."""
        if value is None:
            return 0 if info.field_name == "approvals" else []
        return value


class SourcedBody(Body):
    """A document, and where it comes from."""

    source: str = Field(max_length=4096)
    document: Any


class ApplyBody(Body):
    """What all endpoints shall be that are kept in files.

    ``force`` names those that change or go whatever can be forced stands against it.
    """

    documents: list[SourcedBody] = Field(max_length=MAX_FILES)
    by: Person = "local"
    dry_run: bool = False
    prune: bool = False
    wait: bool = True
    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    force: list[EndpointName] = Field(default_factory=list, max_length=MAX_FILES)


def spec_of(name: str, body: EndpointBody) -> EndpointSpec:
    """Return what is wanted, but for the model; raises ``InvalidRequest`` for its routing."""
    values = {field: getattr(body, field) for field in _SHARED}
    rollout = body.rollout.policy() if body.rollout is not None else None
    routing = read_routing(body.routing or {})
    hosting = body.wanted_hosting()
    hooks = body.webhooks
    return EndpointSpec(
        name,
        "",
        routing=routing,
        rollout=rollout,
        hosting=hosting,
        webhooks=None if hooks is None else tuple(hook.webhook() for hook in hooks),
        **values,
    )


def document_of(spec: EndpointSpec) -> dict[str, Any]:
    """Return an endpoint as a file would say it, every field."""
    model = spec.model
    if spec.alias is not None:
        model = f"{model}@{spec.alias}"
    elif spec.version is not None:
        model = f"{model}:{spec.version}"
    values = {field: getattr(spec, field) for field in _SHARED}
    routing = msgspec.to_builtins(spec.routing)
    policy = spec.rollout
    rollout = RolloutPolicyBody.of(policy).model_dump() if policy is not None else None
    hooks = [WebhookBody.of(hook).model_dump() for hook in spec.webhooks or ()]
    document = {"kind": "Endpoint", "name": spec.name, "model": model, **values, "webhooks": hooks}
    return {**document, **_hosting(spec.hosting), "routing": routing, "rollout": rollout}


def _hosting(hosting: Hosting) -> dict[str, Any]:
    return {
        "hosting": hosting.kind,
        **msgspec.structs.asdict(hosting.execution),
        "cpus": hosting.limits.cpus,
        "memory_limit_bytes": hosting.limits.memory_bytes,
        "gpu": hosting.limits.gpu,
    }


def read_files(documents: list[SourcedBody]) -> tuple[list[Wanted], list[Problem]]:
    """Return the endpoints of files, and what is wrong with others: each with its file and key."""
    found: list[Wanted] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for item in documents:
        wanted, wrong = _read(item)
        problems += [Problem(f"{item.source}: {text}") for text in wrong]
        if wanted is None:
            continue
        name = wanted.spec.name
        if name in seen:
            problems.append(Problem(f"{item.source}: endpoint {name!r} is also in {seen[name]}"))
            continue
        seen[name] = item.source
        found.append(wanted)
    return found, problems


def _read(item: SourcedBody) -> tuple[Wanted | None, list[str]]:
    try:
        file = EndpointFile.model_validate(item.document)
    except ValidationError as error:
        return None, [_problem(each) for each in error.errors()]
    rollout = file.rollout
    parts: dict[str, Callable[[], object]] = {
        "name": lambda: check_name(file.name, "endpoint"),
        "model": lambda: parse_reference(file.model),
        "routing": lambda: read_routing(file.routing or {}),
        "rollout": lambda: rollout.policy() if rollout is not None else None,
    }
    wrong: list[str] = []
    for key, read in parts.items():
        try:
            read()
        except (InvalidName, InvalidRequest) as error:
            wrong.append(f"{key}: {error.message}")
    if wrong:
        return None, wrong
    spec = spec_of(file.name, file)
    document = document_of(spec) | {"model": file.model}
    return Wanted(spec, file.model, document, item.source), []


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    return f"{where}: {error['msg']}" if where else str(error["msg"])
