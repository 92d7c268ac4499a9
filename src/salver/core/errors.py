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
    │   │   └── HostingRefused      hosting_refused
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
    │   │   ├── EndpointFrozen      endpoint_frozen
    │   │   ├── SignatureChanged    signature_changed
    │   │   ├── VersionRolledBack   version_rolled_back
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
from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """Who can repair a failure."""

    CALLER = "caller"
    CAPACITY = "capacity"
    MODEL = "model"
    PLATFORM = "platform"


class SalverError(Exception):
    """Base of every failure that Salver reports on purpose.

    ``retry_after_s`` is set when the same call may succeed later.
    """

    code: ClassVar[str]
    side: ClassVar[Fault]

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        # Half a surrogate pair, which a model's own message may have, cannot be sent anywhere.
        message = message.encode(errors="backslashreplace").decode()
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class CallerError(SalverError):
    """The caller can repair it by sending something else."""

    side = Fault.CALLER


class CapacityError(SalverError):
    """Nothing is wrong with the call; there is no room or time for it now."""

    side = Fault.CAPACITY


class ModelError(SalverError):
    """The model, or the file it came from, is at fault."""

    side = Fault.MODEL


class PlatformError(SalverError):
    """Salver, its disk or its network is at fault."""

    side = Fault.PLATFORM


class InvalidRequest(CallerError):
    """The body does not say what the protocol asks for."""

    code = "invalid_request"


class InvalidJson(InvalidRequest):
    """The body is not JSON."""

    code = "invalid_json"


class InvalidTensor(InvalidRequest):
    """Shape, datatype or data of a tensor do not fit together or the signature."""

    code = "invalid_tensor"


class UnknownInput(InvalidRequest):
    """The request names an input that the model does not have."""

    code = "unknown_input"


class MissingInput(InvalidRequest):
    """The request lacks an input that the model needs."""

    code = "missing_input"


class UnknownOutput(InvalidRequest):
    """The request asks for an output that the model does not have."""

    code = "unknown_output"


class ValueRejected(InvalidRequest):
    """A value is outside the declared range or categories, and the endpoint rejects those."""

    code = "value_rejected"


class HostingRefused(InvalidRequest):
    """The model cannot be hosted in the way that was asked for."""

    code = "hosting_refused"


class MalformedHttp(CallerError):
    """The bytes on the connection are not valid HTTP, or are ambiguous."""

    code = "malformed_http"


class BodyTooLarge(CallerError):
    """The body, as sent or inflated, is over the limit."""

    code = "body_too_large"


class HeadersTooLarge(CallerError):
    """The request line and headers are over the limit."""

    code = "headers_too_large"


class UnsupportedEncoding(CallerError):
    """The body's encoding or media type is not one that Salver reads."""

    code = "unsupported_encoding"


class MethodNotAllowed(CallerError):
    """The path exists but not with this method."""

    code = "method_not_allowed"


class ReadTimeout(CallerError):
    """The caller did not send its whole request in time."""

    code = "read_timeout"


class Unauthenticated(CallerError):
    """No key, or one that is not known."""

    code = "unauthenticated"


class Forbidden(CallerError):
    """The key is known but may not do this."""

    code = "forbidden"


class QuotaExceeded(CallerError):
    """The caller is over its own quota."""

    code = "quota_exceeded"


class Cancelled(CallerError):
    """The caller left before the answer was ready."""

    code = "cancelled"


class NotFound(CallerError):
    """The thing that was named does not exist."""

    code = "not_found"


class RouteNotFound(NotFound):
    """No such path."""

    code = "route_not_found"


class EndpointNotFound(NotFound):
    """No endpoint has this name."""

    code = "endpoint_not_found"


class ModelNotFound(NotFound):
    """No model has this name."""

    code = "model_not_found"


class VersionNotFound(NotFound):
    """The model or endpoint has no such version."""

    code = "version_not_found"


class AliasNotFound(NotFound):
    """The model has no such alias."""

    code = "alias_not_found"


class RolloutNotFound(NotFound):
    """The endpoint has no such rollout."""

    code = "rollout_not_found"


class PreviousNotFound(NotFound):
    """The endpoint has no earlier state to go back to."""

    code = "previous_not_found"


class SideNotFound(NotFound):
    """The endpoint has no such shadow or experiment."""

    code = "side_not_found"


class RequestNotFound(NotFound):
    """The endpoint has answered no request with this id."""

    code = "request_not_found"


class Conflict(CallerError):
    """The change does not fit what is already there."""

    code = "conflict"


class RolloutActive(Conflict):
    """The endpoint is being changed by a rollout that has not ended."""

    code = "rollout_active"


class EndpointFrozen(Conflict):
    """Somebody has frozen the endpoint, so that nothing changes it."""

    code = "endpoint_frozen"


class SignatureChanged(Conflict):
    """The version does not take or give what the one in service does."""

    code = "signature_changed"


class VersionRolledBack(Conflict):
    """The version was rolled back before."""

    code = "version_rolled_back"


class FeedbackDiffers(Conflict):
    """Something else was reported of this answer before."""

    code = "feedback_differs"


class FeedbackExpired(CallerError):
    """The answer is too old for anything to be reported of it."""

    code = "feedback_expired"


class InvalidName(CallerError):
    """A name is not of the allowed form."""

    code = "invalid_name"


class InvalidSettings(CallerError):
    """A setting is unknown or its value is not allowed."""

    code = "invalid_settings"


class UnsupportedOperation(CallerError):
    """The call is understood, but this model or server does not do it."""

    code = "unsupported_operation"


class InvalidArtifact(CallerError):
    """A pushed file is damaged, dangerous, or does not do what its format promises."""

    code = "invalid_artifact"


class UnsupportedFormat(InvalidArtifact):
    """No runtime is known for this file."""

    code = "unsupported_format"


class PickleRefused(InvalidArtifact):
    """The file is a pickle, which runs code when it is loaded."""

    code = "pickle_refused"


class CodeRefused(InvalidArtifact):
    """The model is code, and nobody said that it may run."""

    code = "code_refused"


class RequirementsUnmet(InvalidArtifact):
    """The code needs packages that the workers do not have."""

    code = "requirements_unmet"


class InvalidSteps(InvalidArtifact):
    """The steps around the model do not exist, or do not fit each other or the model."""

    code = "invalid_steps"


class InvalidExample(InvalidArtifact):
    """The example or golden file does not fit the model."""

    code = "invalid_example"


class GoldenMismatch(InvalidArtifact):
    """The model's answer differs from the golden one beyond the tolerance."""

    code = "golden_mismatch"


class Overloaded(CapacityError):
    """The bounded queue is full."""

    code = "overloaded"


class NotReady(CapacityError):
    """No worker can answer for this endpoint yet, or at the moment."""

    code = "not_ready"


class CircuitOpen(CapacityError):
    """The model failed most of its requests and is given a pause."""

    code = "circuit_open"


class Draining(CapacityError):
    """This process is finishing its work before it stops."""

    code = "draining"


class Standby(CapacityError):
    """Another control process with the same database is in charge."""

    code = "standby"


class DeadlineExceeded(CapacityError):
    """The deadline passed before the answer was ready."""

    code = "deadline_exceeded"


class StorageFull(CapacityError):
    """The disk has no room for what was to be stored."""

    code = "storage_full"


class MemoryBudgetExceeded(CapacityError):
    """The memory budget has no room for the model that was asked for."""

    code = "memory_budget_exceeded"


class WorkerLimit(CapacityError):
    """Autoscaling may not use as many workers as it would take."""

    code = "worker_limit"


class ResourceUnavailable(CapacityError):
    """The worker's machine lacks a CPU, a GPU or an execution provider that was asked for."""

    code = "resource_unavailable"


class ModelFailed(ModelError):
    """The model raised an error on this input."""

    code = "model_failed"


class NonFiniteOutput(ModelError):
    """The model answered NaN or infinity, which JSON cannot carry."""

    code = "non_finite_output"


class WorkerCrashed(ModelError):
    """The process died while it ran this request, twice."""

    code = "worker_crashed"


class LoadFailed(ModelError):
    """The model could not be loaded."""

    code = "load_failed"


class MemoryLimitExceeded(ModelError):
    """The model needs more memory than its worker may have."""

    code = "memory_limit_exceeded"


class Internal(PlatformError):
    """A fault of Salver's own."""

    code = "internal"


class DigestMismatch(PlatformError):
    """Stored bytes are not the bytes that were pushed."""

    code = "digest_mismatch"


class WireError(PlatformError):
    """Two processes of Salver did not understand each other."""

    code = "wire_error"


class ControlUnavailable(PlatformError):
    """The control process cannot be reached."""

    code = "control_unavailable"


def _leaves(cls: type[SalverError]) -> Iterator[type[SalverError]]:
    for child in cls.__subclasses__():
        if "code" in child.__dict__:
            yield child
        yield from _leaves(child)


ERRORS_BY_CODE: dict[str, type[SalverError]] = {cls.code: cls for cls in _leaves(SalverError)}


def from_code(code: str, message: str, retry_after_s: float | None = None) -> SalverError:
    """Rebuild an error that crossed a process boundary; an unknown code becomes ``Internal``."""
    return ERRORS_BY_CODE.get(code, Internal)(message, retry_after_s=retry_after_s)


def fault_of(error: Exception) -> Internal:
    """Return what a caller is told of a fault of ours, which the log describes in full."""
    return Internal(f"an internal fault ({type(error).__name__}); it was logged")
