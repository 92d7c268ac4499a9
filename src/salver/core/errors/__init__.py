"""Every failure Salver reports, as one tree of domain errors.

Each class has a stable ``code`` (what programs match on) and a fault ``side`` (who can fix it).
The message is for people and names the cause and the fix. HTTP and gRPC statuses are not known
here: ``gateway`` and ``control`` map codes to them.

::

    SalverError
    ├── CallerError                 side = caller
    │   ├── InvalidRequest          invalid_request
    │   │   ├── InvalidJson         invalid_json
    │   │   ├── InvalidTensor       invalid_tensor
    │   │   ├── UnknownInput        unknown_input
    │   │   ├── MissingInput        missing_input
    │   │   ├── UnknownOutput       unknown_output
    │   │   ├── ValueRejected       value_rejected
    │   │   ├── HostingRefused      hosting_refused
    │   │   └── WebhookNotAllowed   webhook_not_allowed
    │   ├── MalformedHttp           malformed_http
    │   ├── BodyTooLarge            body_too_large
    │   ├── HeadersTooLarge         headers_too_large
    │   ├── UnsupportedEncoding     unsupported_encoding
    │   ├── MethodNotAllowed        method_not_allowed
    │   ├── ReadTimeout             read_timeout
    │   ├── Unauthenticated         unauthenticated
    │   ├── Forbidden               forbidden
    │   ├── QuotaExceeded           quota_exceeded
    │   ├── Cancelled               cancelled
    │   ├── NotFound                not_found
    │   │   ├── RouteNotFound       route_not_found
    │   │   ├── EndpointNotFound    endpoint_not_found
    │   │   ├── ModelNotFound       model_not_found
    │   │   ├── VersionNotFound     version_not_found
    │   │   ├── AliasNotFound       alias_not_found
    │   │   ├── RolloutNotFound     rollout_not_found
    │   │   ├── PreviousNotFound    previous_not_found
    │   │   ├── SideNotFound        side_not_found
    │   │   └── RequestNotFound     request_not_found
    │   ├── Conflict                conflict
    │   │   ├── RolloutActive       rollout_active
    │   │   ├── SideActive          side_active
    │   │   ├── EndpointFrozen      endpoint_frozen
    │   │   ├── SignatureChanged    signature_changed
    │   │   ├── VersionRolledBack   version_rolled_back
    │   │   ├── ApprovalMissing     approval_missing
    │   │   └── FeedbackDiffers     feedback_differs
    │   ├── FeedbackExpired         feedback_expired
    │   ├── InvalidName             invalid_name
    │   ├── InvalidSettings         invalid_settings
    │   ├── UnsupportedOperation    unsupported_operation
    │   └── InvalidArtifact         invalid_artifact
    │       ├── UnsupportedFormat   unsupported_format
    │       ├── PickleRefused       pickle_refused
    │       ├── CodeRefused         code_refused
    │       ├── RequirementsUnmet   requirements_unmet
    │       ├── InvalidSteps        invalid_steps
    │       ├── InvalidExample      invalid_example
    │       └── GoldenMismatch      golden_mismatch
    ├── CapacityError               side = capacity
    │   ├── Overloaded              overloaded
    │   ├── NotReady                not_ready
    │   ├── CircuitOpen             circuit_open
    │   ├── Draining                draining
    │   ├── Standby                 standby
    │   ├── DeadlineExceeded        deadline_exceeded
    │   ├── StorageFull             storage_full
    │   ├── MemoryBudgetExceeded    memory_budget_exceeded
    │   ├── WorkerLimit             worker_limit
    │   └── ResourceUnavailable     resource_unavailable
    ├── ModelError                  side = model
    │   ├── ModelFailed             model_failed
    │   ├── NonFiniteOutput         non_finite_output
    │   ├── WorkerCrashed           worker_crashed
    │   ├── LoadFailed              load_failed
    │   └── MemoryLimitExceeded     memory_limit_exceeded
    └── PlatformError               side = platform
        ├── Internal                internal
        ├── DigestMismatch          digest_mismatch
        ├── WireError               wire_error
        └── ControlUnavailable      control_unavailable
"""

from collections.abc import Iterator

from salver.core.errors.artifact import (
    CodeRefused,
    GoldenMismatch,
    InvalidArtifact,
    InvalidExample,
    InvalidSteps,
    PickleRefused,
    RequirementsUnmet,
    UnsupportedFormat,
)
from salver.core.errors.base import (
    CallerError,
    CapacityError,
    Fault,
    ModelError,
    PlatformError,
    SalverError,
)
from salver.core.errors.caller import (
    AliasNotFound,
    ApprovalMissing,
    BodyTooLarge,
    Cancelled,
    Conflict,
    EndpointFrozen,
    EndpointNotFound,
    FeedbackDiffers,
    FeedbackExpired,
    Forbidden,
    HeadersTooLarge,
    HostingRefused,
    InvalidJson,
    InvalidName,
    InvalidRequest,
    InvalidSettings,
    InvalidTensor,
    MalformedHttp,
    MethodNotAllowed,
    MissingInput,
    ModelNotFound,
    NotFound,
    PreviousNotFound,
    QuotaExceeded,
    ReadTimeout,
    RequestNotFound,
    RolloutActive,
    RolloutNotFound,
    RouteNotFound,
    SideActive,
    SideNotFound,
    SignatureChanged,
    Unauthenticated,
    UnknownInput,
    UnknownOutput,
    UnsupportedEncoding,
    UnsupportedOperation,
    ValueRejected,
    VersionNotFound,
    VersionRolledBack,
    WebhookNotAllowed,
)
from salver.core.errors.platform import (
    CircuitOpen,
    ControlUnavailable,
    DeadlineExceeded,
    DigestMismatch,
    Draining,
    Internal,
    LoadFailed,
    MemoryBudgetExceeded,
    MemoryLimitExceeded,
    ModelFailed,
    NonFiniteOutput,
    NotReady,
    Overloaded,
    ResourceUnavailable,
    Standby,
    StorageFull,
    WireError,
    WorkerCrashed,
    WorkerLimit,
)

__all__ = [
    "ERRORS_BY_CODE",
    "AliasNotFound",
    "ApprovalMissing",
    "BodyTooLarge",
    "CallerError",
    "Cancelled",
    "CapacityError",
    "CircuitOpen",
    "CodeRefused",
    "Conflict",
    "ControlUnavailable",
    "DeadlineExceeded",
    "DigestMismatch",
    "Draining",
    "EndpointFrozen",
    "EndpointNotFound",
    "Fault",
    "FeedbackDiffers",
    "FeedbackExpired",
    "Forbidden",
    "GoldenMismatch",
    "HeadersTooLarge",
    "HostingRefused",
    "Internal",
    "InvalidArtifact",
    "InvalidExample",
    "InvalidJson",
    "InvalidName",
    "InvalidRequest",
    "InvalidSettings",
    "InvalidSteps",
    "InvalidTensor",
    "LoadFailed",
    "MalformedHttp",
    "MemoryBudgetExceeded",
    "MemoryLimitExceeded",
    "MethodNotAllowed",
    "MissingInput",
    "ModelError",
    "ModelFailed",
    "ModelNotFound",
    "NonFiniteOutput",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PickleRefused",
    "PlatformError",
    "PreviousNotFound",
    "QuotaExceeded",
    "ReadTimeout",
    "RequestNotFound",
    "RequirementsUnmet",
    "ResourceUnavailable",
    "RolloutActive",
    "RolloutNotFound",
    "RouteNotFound",
    "SalverError",
    "SideActive",
    "SideNotFound",
    "SignatureChanged",
    "Standby",
    "StorageFull",
    "Unauthenticated",
    "UnknownInput",
    "UnknownOutput",
    "UnsupportedEncoding",
    "UnsupportedFormat",
    "UnsupportedOperation",
    "ValueRejected",
    "VersionNotFound",
    "VersionRolledBack",
    "WebhookNotAllowed",
    "WireError",
    "WorkerCrashed",
    "WorkerLimit",
    "fault_of",
    "from_code",
    "message_of",
]


def _leaves(cls: type[SalverError]) -> Iterator[type[SalverError]]:
    for child in cls.__subclasses__():
        if "code" in child.__dict__:
            yield child
        yield from _leaves(child)


ERRORS_BY_CODE: dict[str, type[SalverError]] = {cls.code: cls for cls in _leaves(SalverError)}


def from_code(code: str, message: str, retry_after_s: float | None = None) -> SalverError:
    """Rebuild an error that crossed a process boundary; an unknown code becomes ``Internal``."""
    return ERRORS_BY_CODE.get(code, Internal)(message, retry_after_s=retry_after_s)


def message_of(error: BaseException) -> str:
    """Return what an error says of itself, which may be a model's own code, and fail too."""
    try:
        return str(error)
    except BaseException:  # whoever waits for an answer has to be told in any case
        return "its message cannot be read"


def fault_of(error: Exception) -> Internal:
    """Return what a caller is told of a fault of ours, which the log describes in full."""
    return Internal(f"an internal fault ({type(error).__name__}); it was logged")
