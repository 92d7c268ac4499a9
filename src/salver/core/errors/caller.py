"""What callers can repair by sending something else."""

from salver.core.errors.base import CallerError


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


class WebhookNotAllowed(InvalidRequest):
    """The webhook's host, or the address that it leads to, may not be called."""

    code = "webhook_not_allowed"


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


class SideActive(Conflict):
    """A shadow or an experiment of the endpoint goes on."""

    code = "side_active"


class EndpointFrozen(Conflict):
    """Somebody has frozen the endpoint, so that nothing changes it."""

    code = "endpoint_frozen"


class SignatureChanged(Conflict):
    """The version does not take or give what the one in service does."""

    code = "signature_changed"


class VersionRolledBack(Conflict):
    """The version was rolled back before."""

    code = "version_rolled_back"


class ApprovalMissing(Conflict):
    """The endpoint demands that people approve of the version first."""

    code = "approval_missing"


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
