"""Endpoints as people write them down: from a body or a file to what is wanted, and back."""

import difflib
from typing import Any, Literal

import msgspec
from pydantic import Field, ValidationError

from salver.control.api.bodies import Body, EndpointBody, RolloutPolicyBody
from salver.core.errors import InvalidName, InvalidRequest
from salver.core.hosting import Hosting
from salver.core.names import check_name, parse_reference
from salver.core.routing import read_routing
from salver.registry.records import EndpointSpec

_OWN_WAY = {"model", "routing", "rollout", "hosting"}
_SHARED = sorted((set(EndpointSpec.__struct_fields__) & set(EndpointBody.model_fields)) - _OWN_WAY)
_MAX_PROBLEMS = 10
MAX_FILES = 1000


class EndpointFile(EndpointBody):
    """A file that says how an endpoint shall be; what it leaves out has its default."""

    kind: Literal["Endpoint"]
    name: str = Field(max_length=128)


class SourcedBody(Body):
    """A document, and where it comes from."""

    source: str = Field(max_length=4096)
    document: Any


class ApplyBody(Body):
    """What all endpoints shall be that are kept in files."""

    documents: list[SourcedBody] = Field(max_length=MAX_FILES)
    dry_run: bool = False
    prune: bool = False
    wait: bool = True
    timeout_s: float = Field(default=120.0, gt=0, le=3600)


def spec_of(name: str, body: EndpointBody) -> EndpointSpec:
    """Return what is wanted, but for the model; raises ``InvalidRequest`` for its routing."""
    values = {field: getattr(body, field) for field in _SHARED}
    rollout = body.rollout.policy() if body.rollout is not None else None
    routing = read_routing(body.routing or {})
    hosting = body.wanted_hosting()
    return EndpointSpec(name, "", routing=routing, rollout=rollout, hosting=hosting, **values)


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
    document = {"kind": "Endpoint", "name": spec.name, "model": model, **values}
    return {**document, **_hosting(spec.hosting), "routing": routing, "rollout": rollout}


def _hosting(hosting: Hosting) -> dict[str, Any]:
    return {
        "hosting": hosting.kind,
        **msgspec.structs.asdict(hosting.execution),
        "cpus": hosting.limits.cpus,
        "memory_limit_bytes": hosting.limits.memory_bytes,
        "gpu": hosting.limits.gpu,
    }


def read_files(documents: list[SourcedBody]) -> list[EndpointFile]:
    """Return the endpoints of files.

    Raises ``InvalidRequest`` that names, for each problem, its file, what is wrong and, of an
    unknown key, the nearest known one.
    """
    files: list[EndpointFile] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for item in documents:
        try:
            file = EndpointFile.model_validate(item.document)
            check_name(file.name, "endpoint")
            parse_reference(file.model)
            read_routing(file.routing or {})
        except ValidationError as error:
            problems += [f"{item.source}: {_problem(each)}" for each in error.errors()]
            continue
        except (InvalidName, InvalidRequest) as error:
            problems.append(f"{item.source}: {error.message}")
            continue
        if file.name in seen:
            problems.append(f"{item.source}: endpoint {file.name!r} is also in {seen[file.name]}")
        seen[file.name] = item.source
        files.append(file)
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        shown = problems[:_MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise InvalidRequest("; ".join(shown))
    return files


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}" if where else str(error["msg"])
    near = difflib.get_close_matches(str(error["loc"][-1]), EndpointFile.model_fields, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown key{hint}"
