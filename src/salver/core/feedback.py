"""Reports of what became of answers: what one says, how it is read, and what came of it."""

import math

import msgspec
import orjson

from salver.core.errors import InvalidRequest

DEFAULT_METRIC = "outcome"
MAX_RELAYED = 1_000
"""Reports in one body of the data port, and in one message from a gateway to control."""
_KEYS = frozenset(("request_id", "value", "metric"))
_MAX_ID_CHARS = 256
_MAX_METRIC_CHARS = 128
_MAX_LINE_CHARS = 4096


class Bounds(msgspec.Struct, frozen=True, omit_defaults=True):
    """What values of a metric may be, both ends included; None is without an end."""

    minimum: float | None = None
    maximum: float | None = None

    def validate(self) -> None:
        """Raise ``InvalidRequest`` for ends that are no numbers, or leave nothing between them."""
        ends = [end for end in (self.minimum, self.maximum) if end is not None]
        if not all(map(math.isfinite, ends)) or ends != sorted(set(ends)):
            raise InvalidRequest(
                f"'minimum' is a number below 'maximum', not {self.minimum} beside {self.maximum}"
            )

    def hold(self, value: float) -> bool:
        """Tell whether a value is one."""
        is_low = self.minimum is not None and value < self.minimum
        return not is_low and (self.maximum is None or value <= self.maximum)

    def __str__(self) -> str:
        """Return them in words."""
        if self.minimum is not None and self.maximum is not None:
            return f"from {self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"of at least {self.minimum:g}"
        return "of any size" if self.maximum is None else f"of at most {self.maximum:g}"


ANY_VALUE, SHARES = Bounds(), Bounds(0.0, 1.0)


class Reported(msgspec.Struct, frozen=True):
    """One report as it was sent."""

    request_id: str
    value: float
    metric: str = DEFAULT_METRIC


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one report; ``number`` counts from 1."""

    number: int
    code: str
    error: str


class Taken(msgspec.Struct, frozen=True):
    """How many reports were new, how many were there already, and what is wrong with others."""

    taken: int
    repeated: int
    problems: tuple[Problem, ...]


def read_report(document: object, metric: str = DEFAULT_METRIC) -> Reported:
    """Return the report that a JSON document is; ``metric`` is that of one that names none.

    Raises ``InvalidRequest``. Whether the id is genuine and the value usable is for control to say.
    """
    if not isinstance(document, dict):
        raise InvalidRequest("a report has keys and values")
    unknown = next((key for key in document if key not in _KEYS), None)
    if unknown is not None:
        known = ", ".join(sorted(_KEYS))
        raise InvalidRequest(f"unknown key {str(unknown)[:80]!r}; a report has {known}")
    request_id, value = document.get("request_id"), document.get("value")
    named = document.get("metric", metric)
    if not isinstance(request_id, str) or not isinstance(named, str):
        raise InvalidRequest("a report has a text request_id, and a text metric if any")
    if len(request_id) > _MAX_ID_CHARS or len(named) > _MAX_METRIC_CHARS:
        raise InvalidRequest(
            f"a request_id has at most {_MAX_ID_CHARS} characters, a metric {_MAX_METRIC_CHARS}"
        )
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise InvalidRequest("value is a finite number, true or false")
    return Reported(request_id, float(value), named)


def read_line(line: str | bytes, metric: str = DEFAULT_METRIC) -> Reported:
    """Return the report that a line of JSON is, as ``read_report``; raises ``InvalidRequest``."""
    if len(line) > _MAX_LINE_CHARS:
        raise InvalidRequest(f"the line has over {_MAX_LINE_CHARS} characters")
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"no JSON: {error}") from error
    return read_report(document, metric)
