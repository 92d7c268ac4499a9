"""How long a client may take to send a request."""

from salver.core.errors import ReadTimeout
from salver.core.settings import HttpSettings

LINGER_S = 2.0
"""How long what a refused client still sends is read, and the end of TLS is waited for."""
_RATE_GRACE_S = 5.0


def lateness(
    phase: str, waited_s: float, received_bytes: int, settings: HttpSettings
) -> ReadTimeout | None:
    """Return the refusal of a request whose headers or body are too late or too slow, if it is.

    ``received_bytes`` are those of the body.
    """
    if phase == "headers" and waited_s > settings.header_timeout_s:
        return ReadTimeout("the headers did not arrive in time")
    if phase == "body":
        least = settings.min_body_rate_bytes_s * (waited_s - _RATE_GRACE_S)
        if waited_s > settings.body_timeout_s or received_bytes < least:
            return ReadTimeout("the body did not arrive in time, or too slowly")
    return None
