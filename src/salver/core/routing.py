"""What decides, besides weights, which variant of an endpoint answers a request."""

import re
from collections.abc import Mapping, Sequence

import msgspec

from salver.core.errors import InvalidRequest

FULL = 10_000
"""All traffic in basis points, and the places on the ring of routing keys: one for each."""
PRIMARY, CANARY, SHADOW, PREVIOUS, ARM = "primary", "canary", "shadow", "previous", "arm"
"""Roles of variants; see ``wire.messages.VariantPlan``."""

HEADER, PARAMETER, INPUT = "header", "parameter", "input"
SOURCES = (HEADER, PARAMETER, INPUT)
MAX_RULES = 32
MAX_CONDITIONS = 16
MAX_TEXT = 256
_FIELD = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")


def ring(weights: Sequence[int], floor: int = 0) -> list[tuple[int, int]]:
    """Return who has which part of the ring, from place 0 on: pairs of an index and a length.

    ``weights`` are in basis points, the primary one's first; on the ring it comes last, so that
    more weight for another only moves callers to that. With a ``floor`` each has that many places
    of its own at the ring's lower end, which stay its own whatever the weights become; where one
    has less weight than that there are no floors.
    """
    indices = list(range(len(weights)))
    order = [index for index in indices[1:] + indices[:1] if weights[index] > 0]
    if floor <= 0 or any(weights[index] < floor for index in order):
        return [(index, weights[index]) for index in order]
    more = [(index, weights[index] - floor) for index in order if weights[index] > floor]
    return [(index, floor) for index in order] + more


class Rule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Sends requests to a variant: ``to`` is its role or its version's number.

    All that is said has to hold. ``caller`` is the principal's name; ``headers`` (gRPC: metadata)
    and ``parameters`` have to be there with these values. ``min_bytes`` and ``max_bytes`` bound the
    size of the tensor ``input``, of all inputs together if that is empty. A rule whose variant is
    not there is passed over.
    """

    to: str
    caller: str = ""
    headers: dict[str, str] = {}
    parameters: dict[str, bool | int | float | str] = {}
    input: str = ""
    min_bytes: int = 0
    max_bytes: int | None = None


class Routing(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How callers stick to a variant, and which rules come before the weights.

    ``key`` says where a caller's routing key is: ``header:NAME``, ``parameter:NAME`` or
    ``input:NAME`` (the first value of that tensor, or of the column that a table's signature
    calls so). Without one, or for requests that have none, each request is drawn by itself. The
    first rule that holds decides.
    """

    key: str = ""
    rules: tuple[Rule, ...] = ()

    @property
    def source(self) -> tuple[str, str]:
        """Where the routing key is and what it is called there; two empty texts for nowhere."""
        source, _, name = self.key.partition(":")
        return (source, name.lower() if source == HEADER else name)

    @property
    def headers(self) -> tuple[str, ...]:
        """The names of the header fields that matter, sorted."""
        source, name = self.source
        names = {field.lower() for rule in self.rules for field in rule.headers}
        return tuple(sorted(names | {name} if source == HEADER else names))


def read_routing(document: object) -> Routing:
    """Return a routing from plain values; raises ``InvalidRequest`` naming what is wrong."""
    try:
        routing = msgspec.convert(document, Routing)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the routing: {error}") from error
    check_routing(routing)
    return routing


def check_routing(routing: Routing) -> None:
    """Raise ``InvalidRequest`` for what cannot work, with the cause."""
    if routing.key:
        source, name = routing.source
        if source not in SOURCES or not name:
            known = ", ".join(f"{kind}:NAME" for kind in SOURCES)
            raise InvalidRequest(f"a routing key is one of {known}, not {routing.key!r}")
        if source == HEADER:
            _check_field(name)
    if len(routing.rules) > MAX_RULES:
        raise InvalidRequest(f"an endpoint has at most {MAX_RULES} routing rules")
    for number, rule in enumerate(routing.rules, 1):
        _check_rule(rule, f"routing rule {number}")


def _check_rule(rule: Rule, where: str) -> None:
    if not rule.to:
        raise InvalidRequest(f"{where}: 'to' names a role (canary) or a version (2)")
    sized = rule.input or rule.min_bytes or rule.max_bytes is not None
    if not (rule.caller or rule.headers or rule.parameters or sized):
        raise InvalidRequest(f"{where}: holds for every request; say when it holds, or use weights")
    if len(rule.headers) + len(rule.parameters) > MAX_CONDITIONS:
        raise InvalidRequest(f"{where}: has over {MAX_CONDITIONS} conditions")
    for field in rule.headers:
        _check_field(field.lower())
    texts: Mapping[str, object] = {**rule.headers, **rule.parameters}
    if any(len(str(text)) > MAX_TEXT for text in (*texts, *texts.values(), rule.to, rule.caller)):
        raise InvalidRequest(f"{where}: a text is over {MAX_TEXT} characters")
    if rule.min_bytes < 0 or (rule.max_bytes is not None and rule.max_bytes < rule.min_bytes):
        raise InvalidRequest(f"{where}: bounds are 0 <= min_bytes <= max_bytes")


def _check_field(name: str) -> None:
    if not _FIELD.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no name of a header field")
