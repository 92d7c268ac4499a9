"""What the head of a request says: where it goes, who sent it, how its body is to be read."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from salver.core.context import Principal


class Target(NamedTuple):
    """Which endpoint, and which version if one was named."""

    endpoint: str
    version: str | None


class Reading(msgspec.Struct, frozen=True, eq=False):
    """An inference request without its body.

    It holds for every request with the same bytes in its head, as long as the keys are the same:
    ``keys_number`` says which they were. ``plain`` tells that the body is JSON and nothing else,
    and ``plain_answer`` that the answer may be so.
    """

    keys_number: int
    target: Target
    principal: Principal
    traceparent: str | None
    plain: bool
    plain_answer: bool


_BODY_FIELDS = (b"content-encoding", b"inference-header-content-length")


def read_head(
    headers: Mapping[bytes, bytes], target: Target, principal: Principal, keys_number: int
) -> Reading:
    """Read the fields that matter to an inference request."""
    traceparent = headers.get(b"traceparent")
    accepted = headers.get(b"accept-encoding", b"identity")
    return Reading(
        keys_number,
        target,
        principal,
        None if traceparent is None else traceparent.decode("latin-1"),
        not any(field in headers for field in _BODY_FIELDS),
        accepted == b"identity",
    )
