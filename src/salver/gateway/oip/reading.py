"""What the head of a request says: where it goes, who sent it, how its body is to be read."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from salver.core.context import Principal
from salver.gateway.http.message import HttpMessage
from salver.gateway.triton.paths import Call

OIP, V1 = "oip", "v1"
"""Dialects: how a body of JSON says what is asked, and its answer what came out."""


class Target(NamedTuple):
    """Which endpoint, and which version if one was named."""

    endpoint: str
    version: str | None


NO_TARGET = Target("", None)


class Route(NamedTuple):
    """What a path stands for; ``action`` is what the routes do, ``dialect`` how bodies are read.

    Those with a ``call`` are answered by the extensions.
    """

    action: str
    target: Target = NO_TARGET
    dialect: str = OIP
    call: Call | None = None

    @property
    def allowed(self) -> bytes:
        """The value of the ``Allow`` field."""
        if self.call is not None:
            return self.call.allowed
        return b"POST, OPTIONS" if self.action == "infer" else b"GET, HEAD, OPTIONS"


class Reading(msgspec.Struct, frozen=True, eq=False):
    """An inference request without its body.

    It holds for every request with the same bytes in its head and the same peer, as long as the
    keys are the same: ``keys_number`` says which they were. ``plain`` tells that the body is the
    protocol's own JSON and nothing else, ``plain_answer`` that the answer may be so, and
    ``is_usual`` that only the body can make such a request a special one.
    """

    keys_number: int
    target: Target
    principal: Principal
    traceparent: str | None
    plain: bool
    plain_answer: bool
    is_usual: bool
    dialect: str


_BODY_FIELDS = (b"content-encoding", b"inference-header-content-length")


def read_head(
    headers: Mapping[bytes, bytes], route: Route, principal: Principal, keys_number: int
) -> Reading:
    """Read the fields that matter to an inference request."""
    is_oip = route.dialect == OIP
    traceparent = headers.get(b"traceparent")
    accepted = headers.get(b"accept-encoding", b"identity")
    plain = is_oip and not any(field in headers for field in _BODY_FIELDS)
    plain_answer = is_oip and accepted == b"identity"
    return Reading(
        keys_number,
        route.target,
        principal,
        None if traceparent is None else traceparent.decode("latin-1"),
        plain,
        plain_answer,
        plain and plain_answer,
        route.dialect,
    )


def reading_of(message: HttpMessage) -> Reading:
    """Return what was made of a message's head before."""
    head = message.head
    assert head is not None
    assert isinstance(head.reading, Reading)
    return head.reading
