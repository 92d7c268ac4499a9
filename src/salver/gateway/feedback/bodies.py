"""A body of reports: one, a list of them, or lines of JSON."""

from collections.abc import Iterable
from typing import NamedTuple

import orjson

from salver.core.errors import BodyTooLarge, InvalidJson, InvalidRequest
from salver.core.feedback import MAX_RELAYED, Reported, read_line, read_report
from salver.gateway.http.message import Buffer

MAX_BODY_BYTES = 512 * 1024
"""More than reports of the usual size need, and read in a few milliseconds."""
_LINE_TYPES = frozenset((b"application/x-ndjson", b"application/ndjson", b"application/jsonl"))
_MAX_LINES = 2 * MAX_RELAYED
_LIST_KEY = "reports"

Read = Reported | InvalidRequest


class Sent(NamedTuple):
    """What a body holds: each report, or what is wrong with it, with its number.

    Lines are numbered as lines, from 1, and empty ones are left out. ``is_one`` tells that the body
    is a single report by itself, not one of several.
    """

    reports: list[tuple[int, Read]]
    is_one: bool


def read_body(body: Buffer, content_type: bytes) -> Sent:
    """Return what a body holds.

    Raises ``BodyTooLarge``, ``InvalidJson``, or ``InvalidRequest`` for one that is neither a report
    nor several, or holds too many.
    """
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"the body is over {MAX_BODY_BYTES} bytes; send the reports in parts")
    data = bytes(body)
    if content_type.partition(b";")[0].strip().lower() in _LINE_TYPES:
        return _lines(data)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if _begins_with_line(data):
            return _lines(data)
        raise InvalidJson(
            f"the body is not JSON: {error}; lines of JSON take the content type "
            "application/x-ndjson"
        ) from error
    if isinstance(document, dict) and _LIST_KEY not in document:
        return Sent([(1, _read(document))], is_one=True)
    if isinstance(document, dict) and len(document) == 1:
        document = document[_LIST_KEY]
    if not isinstance(document, list):
        raise InvalidRequest(
            "the body is a report with request_id, value and perhaps metric, a list of reports, "
            "or {'reports': [...]}"
        )
    _check_count(len(document))
    return Sent([(number, _read(item)) for number, item in enumerate(document, 1)], is_one=False)


def _begins_with_line(data: bytes) -> bool:
    """Tell whether the first line is an object by itself, and others follow."""
    first, _, rest = data.lstrip().partition(b"\n")
    try:
        return bool(rest.strip()) and isinstance(orjson.loads(first), dict)
    except orjson.JSONDecodeError:
        return False


def _lines(data: bytes) -> Sent:
    if data.count(b"\n") > _MAX_LINES:
        raise InvalidRequest(f"a body has at most {_MAX_LINES} lines, empty ones included")
    numbered = [(number, line) for number, line in _numbered(data.split(b"\n")) if line]
    _check_count(len(numbered))
    return Sent([(number, _read(line)) for number, line in numbered], is_one=False)


def _numbered(lines: Iterable[bytes]) -> Iterable[tuple[int, bytes]]:
    return ((number, line.strip()) for number, line in enumerate(lines, 1))


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_RELAYED:
        raise InvalidRequest(f"a body has 1 to {MAX_RELAYED} reports, not {count}")


def _read(item: object) -> Read:
    try:
        return read_line(item) if isinstance(item, bytes) else read_report(item)
    except InvalidRequest as error:
        return error
