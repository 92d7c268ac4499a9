"""What both clients do with httpx: headers in, replies and errors out."""

import httpx

from salver.client.calls import CONTROL, Call, Reply
from salver.client.connection import Addresses
from salver.core.errors import ControlUnavailable, DeadlineExceeded, NotReady, SalverError


def headers_of(call: Call, addresses: Addresses) -> dict[str, str]:
    """Return the call's headers with the secret that its server asks for."""
    secret = addresses.token if call.plane == CONTROL else addresses.api_key
    headers = dict(call.headers)
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    return headers


def reply_of(response: httpx.Response) -> Reply:
    """Return a response as a value."""
    return Reply(response.status_code, response.headers, response.content)


def error_of(error: httpx.HTTPError, call: Call, base: str) -> SalverError:
    """Name the cause and the fix of a call that got no answer."""
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{base} did not answer in time; give it more or see 'salver logs'")
    what = f"no answer from {base} ({error or type(error).__name__})"
    fix = "start the server with 'salver up', or name its address or --home"
    if call.plane == CONTROL:
        return ControlUnavailable(f"{what}; {fix}")
    return NotReady(f"{what}; {fix}")
