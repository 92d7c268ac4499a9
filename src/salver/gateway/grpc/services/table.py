"""What a service offers: calls by their path."""

from collections.abc import Callable
from typing import Any, NamedTuple

from salver.core.context import Principal
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.dialogue import Dialogue, Speaker

SMALL_CALL_BYTES = 4 * 1024 * 1024
"""What calls without tensors say in good faith; messages become many times their size when read."""

Act = Callable[[Any, Principal], Any]


class Unary(NamedTuple):
    """A call of one message and one answer; ``is_open`` tells that it needs no key.

    ``act`` takes the message and who asks, and returns the answer; it may raise ``SalverError``.
    """

    act: Act
    is_open: bool = False


Unaries = dict[str, Unary]


class Streaming(NamedTuple):
    """A call of many messages; ``is_open`` tells that it needs no key.

    ``open`` returns who speaks on our side; it may raise ``SalverError``. Messages over
    ``limit_bytes``, as they are sent or inflated, end the call; None leaves it to the settings.
    """

    open: Callable[[Dialogue, Principal], Speaker]
    is_open: bool = False
    limit_bytes: int | None = SMALL_CALL_BYTES


Streamings = dict[str, Streaming]

Begin = Callable[[Any, Principal, Call], None]
"""Takes the message of a call and who asks, and answers the call later; may raise `SalverError`."""

Later = dict[str, Begin]
"""Calls of one message whose answer takes time."""
