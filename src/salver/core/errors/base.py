"""What all errors have in common, and whose fault they are."""

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
