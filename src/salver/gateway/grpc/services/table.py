"""What a service offers: calls by their path."""

from collections.abc import Callable
from typing import Any, NamedTuple

from salver.core.context import Principal
from salver.gateway.grpc.call import Call
from salver.gateway.grpc.dialogue import Dialogue, Speaker

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

    ``open`` returns who speaks on our side; it may raise ``SalverError``.
    """

    open: Callable[[Dialogue, Principal], Speaker]
    is_open: bool = False


Streamings = dict[str, Streaming]

Begin = Callable[[Any, Principal, Call], None]
"""Takes the message of a call and who asks, and answers the call later; may raise `SalverError`."""

Later = dict[str, Begin]
"""Calls of one message whose answer takes time."""
