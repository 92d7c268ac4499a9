"""What the servers know of a model before it is put under load."""

from dataclasses import dataclass

import msgspec

from salver.bench.figures import Format
from salver.bench.workload import Body, Workload, from_document, from_golden, from_signature
from salver.client.calls import API, CONTROL, DATA, Call, Steps, admin_call, check, json_of
from salver.client.inference import metadata
from salver.core.errors import (
    AliasNotFound,
    ControlUnavailable,
    NotFound,
    SalverError,
    Unauthenticated,
    VersionNotFound,
)
from salver.core.names import ModelReference, parse_reference
from salver.core.signature import Signature


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests somebody wants: those of a file, else of ``rows`` rows; how written."""

    data: bytes | None = None
    file: str = ""
    rows: int = 1
    seed: int = 0
    format: Format = Format.JSON


def of_endpoint(endpoint: str, wanted: Wanted, *, ask_control: bool) -> Steps[tuple[Workload, str]]:
    """Return what to send to an endpoint, and a remark why it is made up, if it is.

    With ``ask_control`` the golden examples of the version that answers are preferred to made-up
    inputs. Raises what the data port refuses with, and ``InvalidExample``.
    """
    signature = yield from metadata(f"/v2/models/{endpoint}")
    if wanted.data is not None:
        return from_document(wanted.data, wanted.file, signature, wanted.format), ""
    remark = ""
    if ask_control:
        try:
            reply = json_of((yield admin_call("GET", f"/endpoints/{endpoint}")))
            reference = parse_reference(reply["serving"])
            return (yield from _golden(reference, wanted)), ""
        except (NotFound, ControlUnavailable, Unauthenticated) as error:
            remark = f"no golden example could be had ({error.message})"
    made_up = from_signature(signature, wanted.rows, wanted.seed, wanted.format)
    return made_up, remark


def of_version(reference: ModelReference, wanted: Wanted) -> Steps[Workload]:
    """Return what to send to a version that need not be deployed."""
    path = f"/models/{reference.name}/versions/{reference.version}"
    manifest = json_of((yield admin_call("GET", path)))
    signature = msgspec.convert(manifest["signature"], Signature)
    if wanted.data is not None:
        return from_document(wanted.data, wanted.file, signature, wanted.format)
    try:
        return (yield from _golden(reference, wanted))
    except NotFound:
        return from_signature(signature, wanted.rows, wanted.seed, wanted.format)


def resolve(reference: ModelReference) -> Steps[ModelReference]:
    """Return a reference with its version; a bare name means the newest.

    Raises ``ModelNotFound``, ``VersionNotFound`` or ``AliasNotFound``.
    """
    model = json_of((yield admin_call("GET", f"/models/{reference.name}")))
    versions = [int(item["version"]) for item in model["versions"]]
    if reference.alias is not None:
        if reference.alias not in model["aliases"]:
            raise AliasNotFound(f"model {reference.name!r} has no alias {reference.alias!r}")
        return ModelReference(reference.name, int(model["aliases"][reference.alias]))
    version = reference.version or max(versions, default=0)
    if version not in versions:
        raise VersionNotFound(f"model {reference.name!r} has no version {version}")
    return ModelReference(reference.name, version)


def try_once(endpoint: str, body: Body) -> Steps[SalverError | None]:
    """Send one request; return None when it was answered right, else what it was refused with."""
    path = f"/v2/models/{endpoint}/infer"
    try:
        check((yield Call("POST", DATA, path, body.headers, body.content)))
    except SalverError as error:
        return error
    return None


def _golden(reference: ModelReference, wanted: Wanted) -> Steps[Workload]:
    path = f"{API}/models/{reference.name}/versions/{reference.version}/golden"
    reply = check((yield Call("GET", CONTROL, path)))
    return from_golden(reply.body, str(reference), wanted.format)
