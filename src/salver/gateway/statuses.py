"""The one table that maps error codes to HTTP and gRPC statuses; docs/errors.md prints it.

429 is the caller's own quota, 503 is our capacity.
"""

from enum import IntEnum
from typing import NamedTuple

from salver.core.errors import ERRORS_BY_CODE, SalverError

_MOST_CHARS = 1024
_END_CHARS = 384
_LEFT_OUT = " … "


class Grpc(IntEnum):
    """gRPC status codes, as numbered by the gRPC specification."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Status(NamedTuple):
    """What one code becomes on the wire."""

    http: int
    grpc: Grpc


_BAD = Status(400, Grpc.INVALID_ARGUMENT)
_MISSING = Status(404, Grpc.NOT_FOUND)
_ARTIFACT = Status(422, Grpc.INVALID_ARGUMENT)
_UNFIT = Status(409, Grpc.FAILED_PRECONDITION)
_FAULT = Status(500, Grpc.INTERNAL)

STATUSES: dict[str, Status] = {
    "invalid_request": _BAD,
    "invalid_json": _BAD,
    "invalid_tensor": _BAD,
    "unknown_input": _BAD,
    "missing_input": _BAD,
    "unknown_output": _BAD,
    "value_rejected": Status(422, Grpc.INVALID_ARGUMENT),
    "hosting_refused": _BAD,
    "webhook_not_allowed": _BAD,
    "malformed_http": _BAD,
    "body_too_large": Status(413, Grpc.RESOURCE_EXHAUSTED),
    "headers_too_large": Status(431, Grpc.RESOURCE_EXHAUSTED),
    "unsupported_encoding": Status(415, Grpc.UNIMPLEMENTED),
    "method_not_allowed": Status(405, Grpc.UNIMPLEMENTED),
    "read_timeout": Status(408, Grpc.DEADLINE_EXCEEDED),
    "unauthenticated": Status(401, Grpc.UNAUTHENTICATED),
    "forbidden": Status(403, Grpc.PERMISSION_DENIED),
    "quota_exceeded": Status(429, Grpc.RESOURCE_EXHAUSTED),
    "cancelled": Status(499, Grpc.CANCELLED),
    "not_found": _MISSING,
    "route_not_found": Status(404, Grpc.UNIMPLEMENTED),
    "endpoint_not_found": _MISSING,
    "model_not_found": _MISSING,
    "version_not_found": _MISSING,
    "alias_not_found": _MISSING,
    "rollout_not_found": _MISSING,
    "previous_not_found": _MISSING,
    "conflict": Status(409, Grpc.ALREADY_EXISTS),
    "rollout_active": _UNFIT,
    "side_active": _UNFIT,
    "endpoint_frozen": _UNFIT,
    "signature_changed": _UNFIT,
    "version_rolled_back": _UNFIT,
    "approval_missing": _UNFIT,
    "side_not_found": _MISSING,
    "request_not_found": _MISSING,
    "feedback_differs": Status(409, Grpc.ALREADY_EXISTS),
    "feedback_expired": Status(410, Grpc.FAILED_PRECONDITION),
    "invalid_name": _BAD,
    "invalid_settings": _BAD,
    "unsupported_operation": Status(501, Grpc.UNIMPLEMENTED),
    "invalid_artifact": _ARTIFACT,
    "unsupported_format": _ARTIFACT,
    "pickle_refused": _ARTIFACT,
    "code_refused": _ARTIFACT,
    "requirements_unmet": _ARTIFACT,
    "invalid_steps": _ARTIFACT,
    "invalid_example": _ARTIFACT,
    "golden_mismatch": Status(422, Grpc.FAILED_PRECONDITION),
    "overloaded": Status(503, Grpc.UNAVAILABLE),
    "circuit_open": Status(503, Grpc.UNAVAILABLE),
    "not_ready": Status(503, Grpc.UNAVAILABLE),
    "draining": Status(503, Grpc.UNAVAILABLE),
    "standby": Status(503, Grpc.UNAVAILABLE),
    "deadline_exceeded": Status(504, Grpc.DEADLINE_EXCEEDED),
    "storage_full": Status(507, Grpc.RESOURCE_EXHAUSTED),
    "memory_budget_exceeded": Status(503, Grpc.UNAVAILABLE),
    "worker_limit": Status(507, Grpc.RESOURCE_EXHAUSTED),
    "resource_unavailable": Status(503, Grpc.UNAVAILABLE),
    "model_failed": _FAULT,
    "non_finite_output": _FAULT,
    "worker_crashed": _FAULT,
    "load_failed": Status(500, Grpc.FAILED_PRECONDITION),
    "memory_limit_exceeded": Status(500, Grpc.RESOURCE_EXHAUSTED),
    "internal": _FAULT,
    "digest_mismatch": Status(500, Grpc.DATA_LOSS),
    "wire_error": _FAULT,
    "control_unavailable": Status(503, Grpc.UNAVAILABLE),
}


def text_of(error: SalverError) -> str:
    """Return the message that a caller on the data port gets, of 1,024 characters at most.

    A longer one loses its middle: what was sent and is echoed stands there, the fix at the end.
    """
    text = error.message
    if len(text) <= _MOST_CHARS:
        return text
    return text[: _MOST_CHARS - _END_CHARS - len(_LEFT_OUT)] + _LEFT_OUT + text[-_END_CHARS:]


_PAGE_HEAD = """# Error codes

Every error is `{"error": "what went wrong and what to do", "code": "…", "request_id": "…"}`, \
on the data port and in the control API.
Match on `code`; the text may change. `Retry-After` is sent where the same call may succeed later.
429 is the caller's own quota, 503 is the server's capacity.

| code | whose fault | HTTP | gRPC | meaning |
|---|---|---|---|---|
"""


def errors_page() -> str:
    """Return the page of all codes."""
    rows = []
    for code, error in ERRORS_BY_CODE.items():
        status = STATUSES[code]
        meaning = (error.__doc__ or "").strip().splitlines()[0]
        rows.append(
            f"| `{code}` | {error.side} | {status.http} | {status.grpc.name} | {meaning} |\n"
        )
    return _PAGE_HEAD + "".join(rows)
