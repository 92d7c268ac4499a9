"""Reports what became of answers, over the control API or the data port."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from salver.client.calls import CONTROL, DATA, Call, Steps, admin_call, json_bytes, json_of
from salver.client.connection import Addresses
from salver.core.errors import InvalidRequest, NotFound, SalverError, from_code
from salver.core.feedback import MAX_RELAYED, Reported, read_line, read_report
from salver.core.names import check_name

Json = dict[str, Any]
Numbered = tuple[int, Reported | SalverError]

_CHUNKS = {CONTROL: 5_000, DATA: MAX_RELAYED}


def plane_of(addresses: Addresses, given: str | None, data_url: str | None) -> str:
    """Return where reports go: ``data`` or ``control``.

    To ``given`` if that is said. Else to the data port where no control token is at hand or only
    the data port was named (``data_url``), and to the control API otherwise. Raises
    ``InvalidRequest`` for another word.
    """
    if given is not None:
        if given not in _CHUNKS:
            raise InvalidRequest(f"reports go over 'data' or 'control', not {given!r}")
        return given
    has_token = bool(addresses.token) or addresses.withheld is not None
    return DATA if data_url is not None or not has_token else CONTROL


def feedback(plane: str, endpoint: str, report: Reported) -> Steps[None]:
    """Report one outcome; raises what is wrong with it."""
    answer = yield from _send(plane, endpoint, [report])
    for problem in answer["problems"]:
        raise from_code(problem["code"], problem["error"])


def feedback_many(plane: str, endpoint: str, reports: Iterable[Numbered]) -> Steps[Json]:
    """Report many outcomes, each with its number; good ones are taken whatever others are.

    Returns how many were ``taken``, ``repeated``, and the ``problems`` by number.
    """
    total: Json = {"taken": 0, "repeated": 0, "problems": []}
    for chunk in _chunks(reports, _CHUNKS[plane]):
        good = [(number, report) for number, report in chunk if isinstance(report, Reported)]
        total["problems"] += [
            {"number": number, "code": error.code, "error": error.message}
            for number, error in chunk
            if isinstance(error, SalverError)
        ]
        if not good:
            continue
        answer = yield from _send(plane, endpoint, [report for _, report in good])
        total["taken"] += answer["taken"]
        total["repeated"] += answer["repeated"]
        for problem in answer["problems"]:
            number = good[problem["number"] - 1][0]
            total["problems"].append({**problem, "number": number})
    total["problems"].sort(key=lambda problem: problem["number"])
    return total


def read_reports(path: Path, metric: str) -> Iterator[Numbered]:
    """Yield the reports of a file of JSON lines, or of a CSV file with a line of names.

    ``metric`` is that of reports that name none. Raises ``NotFound`` for a file that cannot be
    read; a line that is none, or no UTF-8, is yielded as the error that says why. Each has the
    number of its line in the file, empty ones included; a row of several lines that of its last.
    """
    try:
        if path.suffix == ".csv":
            yield from _rows(path, metric)
            return
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _checked(read_line, line, metric)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except csv.Error as error:
        raise InvalidRequest(f"{path} is no text of lines: {error}") from error


def _rows(path: Path, metric: str) -> Iterator[Numbered]:
    # What is no UTF-8 is in no id and no name, so that only its own row is refused.
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.DictReader(file)
        for row in rows:
            yield rows.line_num, _checked(_row, row, metric)


def _send(plane: str, endpoint: str, reports: list[Reported]) -> Steps[Json]:
    name, body = check_name(endpoint, "endpoint"), {"reports": msgspec.to_builtins(reports)}
    if plane == CONTROL:
        call = admin_call("POST", f"/endpoints/{name}/feedback", body)
    else:
        headers = {"content-type": "application/json"}
        call = Call("POST", DATA, f"/v2/models/{name}/feedback", headers, json_bytes(body))
    answer: Json = json_of((yield call))
    return answer


def _chunks(reports: Iterable[Numbered], size: int) -> Iterator[list[Numbered]]:
    chunk: list[Numbered] = []
    for report in reports:
        chunk.append(report)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _row(row: Mapping[str | None, Any], metric: str) -> Reported:
    named = {str(key): value for key, value in row.items() if key is not None and value}
    try:
        return read_report({**named, "value": float(named.get("value", ""))}, metric)
    except ValueError:
        raise InvalidRequest(f"value {named.get('value', '')!r} is no number") from None


def _checked(
    read: Callable[[Any, str], Reported], item: Any, metric: str
) -> Reported | SalverError:
    """Return a report, or what is wrong with it, so that it need not be sent."""
    try:
        return read(item, metric)
    except InvalidRequest as error:
        return error
