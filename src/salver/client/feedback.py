"""Reports what became of answers."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from salver.client.calls import Steps, admin_call, json_of
from salver.core.errors import InvalidRequest, NotFound, SalverError, from_code
from salver.core.names import check_name

Json = dict[str, Any]
Numbered = tuple[int, Mapping[str, Any] | SalverError]

DEFAULT_METRIC = "outcome"
_CHUNK = 5_000
_KEYS = frozenset(("request_id", "value", "metric"))
_MAX_LINE_CHARS = 4096


def feedback(endpoint: str, request_id: str, value: float, metric: str) -> Steps[None]:
    """Report one outcome; raises what is wrong with it."""
    report = {"request_id": request_id, "value": value, "metric": metric}
    answer = yield from _send(endpoint, [report])
    for problem in answer["problems"]:
        raise from_code(problem["code"], problem["error"])


def feedback_many(endpoint: str, reports: Iterable[Numbered]) -> Steps[Json]:
    """Report many outcomes, each with its number; good ones are taken whatever others are.

    Returns how many were ``taken``, ``repeated``, and the ``problems`` by number.
    """
    total: Json = {"taken": 0, "repeated": 0, "problems": []}
    for chunk in _chunks(reports):
        good = [(number, report) for number, report in chunk if isinstance(report, Mapping)]
        total["problems"] += [
            {"number": number, "code": error.code, "error": error.message}
            for number, error in chunk
            if isinstance(error, SalverError)
        ]
        if not good:
            continue
        answer = yield from _send(endpoint, [report for _, report in good])
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
    read; a line that is none is yielded as the error that says why.
    """
    try:
        with path.open(newline="") as file:
            if path.suffix == ".csv":
                rows = csv.DictReader(file)
                for number, row in enumerate(rows, 2):
                    yield number, _checked(_typed(row), metric)
            else:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _checked(_parsed(line), metric)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{path} is no text of lines: {error}") from error


def _send(endpoint: str, reports: list[Mapping[str, Any]]) -> Steps[Json]:
    path = f"/endpoints/{check_name(endpoint, 'endpoint')}/feedback"
    answer: Json = json_of((yield admin_call("POST", path, {"reports": reports})))
    return answer


def _chunks(reports: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    chunk: list[Numbered] = []
    for report in reports:
        chunk.append(report)
        if len(chunk) >= _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _parsed(line: str) -> object:
    if len(line) > _MAX_LINE_CHARS:
        return InvalidRequest(f"the line has over {_MAX_LINE_CHARS} characters")
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return InvalidRequest(f"no JSON: {error}")


def _typed(row: Mapping[str | None, Any]) -> object:
    named = {str(key): value for key, value in row.items() if key is not None and value}
    try:
        return {**named, "value": float(named.get("value", ""))}
    except ValueError:
        return InvalidRequest(f"value {named.get('value', '')!r} is no number")


def _checked(report: object, metric: str) -> Mapping[str, Any] | SalverError:
    """Return a report, or what is wrong with it, so that it need not be sent."""
    if isinstance(report, SalverError):
        return report
    if not isinstance(report, dict):
        return InvalidRequest("a report has keys and values")
    unknown = sorted(set(report) - _KEYS)
    if unknown:
        known = ", ".join(sorted(_KEYS))
        return InvalidRequest(f"unknown key {unknown[0]!r}; a report has {known}")
    report = {"metric": metric, **report}
    value = report.get("value")
    if not isinstance(report.get("request_id"), str) or not isinstance(report["metric"], str):
        return InvalidRequest("a report has a text request_id, and a text metric if any")
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        return InvalidRequest("value is a finite number, true or false")
    return {**report, "value": float(value)}
