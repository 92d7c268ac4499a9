"""No room, a model at fault, or Salver itself."""

from salver.core.errors.base import CapacityError, ModelError, PlatformError


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
