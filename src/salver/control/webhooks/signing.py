"""Signs what webhooks are told, so that they can tell it from what others send."""

import hashlib
import hmac
from collections.abc import Sequence

SIGNATURE_HEADER = "x-salver-signature"
DELIVERY_HEADER = "x-salver-delivery"
EVENT_HEADER = "x-salver-event"


def signature(secrets: Sequence[bytes], unix_s: int, body: bytes) -> str:
    """Return the header's value: ``t=UNIX_SECONDS,v1=HEX`` with a ``v1`` for each secret.

    Each is the HMAC-SHA256 of the time, a dot and the body. Several secrets are in force while
    one takes the place of another.
    """
    signed = b"%d." % unix_s + body
    parts = [hmac.new(secret, signed, hashlib.sha256).hexdigest() for secret in secrets]
    return f"t={unix_s}," + ",".join(f"v1={part}" for part in parts)
