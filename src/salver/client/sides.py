"""Calls to the control API about shadows and experiments."""

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from salver.client.calls import Steps, admin_call, check, json_of
from salver.client.rollouts import whoever
from salver.core.errors import InvalidRequest, NotFound
from salver.core.names import check_name

Json = dict[str, Any]
Part = TypeVar("Part")

_CHUNK = 5_000


def start_shadow(endpoint: str, version: str | int, sample: float, *, force: bool) -> Steps[Json]:
    """Copy a share of an endpoint's requests to a version."""
    body = {"version": str(version), "sample": sample, "force": force, "by": whoever()}
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, "shadow"), body)))
    return answer


def start_experiment(
    endpoint: str,
    arms: Sequence[str | int],
    split: Sequence[float] | str,
    metric: str,
    *,
    force: bool,
    **options: Any,
) -> Steps[Json]:
    """Split an endpoint's requests between versions, in percent or by success ("thompson")."""
    body = {
        "arms": _each(str, arms, "arms are a list of versions, such as [1, 2]"),
        "split": split
        if isinstance(split, str)
        else _each(float, split, "a split is a list of percents, such as [50, 50], or thompson"),
        "metric": metric,
        "force": force,
        "by": whoever(),
        **options,
    }
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, "experiment"), body)))
    return answer


def _each(kind: Callable[[Any], Part], given: object, wanted: str) -> list[Part]:
    """Return a list's items as this kind; raises ``InvalidRequest`` with what is ``wanted``.

    A file may hold anything; of a text only its letters would be taken.
    """
    try:
        if not isinstance(given, str):
            return [kind(item) for item in given]  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidRequest(f"{wanted}; not {given!r}"[:200])


def experiment_history(endpoint: str) -> Steps[list[Json]]:
    """Return how the newest experiment's weights have changed, newest first."""
    answer: list[Json] = json_of((yield admin_call("GET", _path(endpoint, "experiment/history"))))
    return answer


def covariate(endpoint: str, callers: Iterable[tuple[str, float]]) -> Steps[int]:
    """Say what was known of callers before the experiment; returns of how many.

    Takes the place of what was said before.
    """
    path, sent = _path(endpoint, "experiment/covariate"), 0
    rest = iter(callers)
    while known := [{"key": key, "value": value} for key, value in islice(rest, _CHUNK)]:
        check((yield admin_call("POST", path, {"callers": known, "replace": sent == 0})))
        sent += len(known)
    if not sent:
        raise InvalidRequest("nothing is said of any caller")
    return sent


def read_covariate(path: Path) -> Iterator[tuple[str, float]]:
    """Yield routing key and value of each line of a CSV file with a line of names.

    Raises ``NotFound`` for a file that cannot be read, and ``InvalidRequest`` naming the line that
    is wrong or has a key a second time: half a file would be half the truth.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"key", "value"} <= set(rows.fieldnames or ()):
                raise InvalidRequest(f"{path} has no columns 'key' and 'value'")
            lines: dict[str, int] = {}
            for row in rows:
                # Of a row of several lines the last.
                number = rows.line_num
                key, value = str(row["key"] or ""), _number(row["value"])
                if not key or value is None:
                    raise InvalidRequest(f"{path}:{number}: a line has a key and a finite number")
                if key in lines:
                    raise InvalidRequest(
                        f"{path}:{number}: {key[:40]!r} is in line {lines[key]} already"
                    )
                lines[key] = number
                yield key, value
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{path} is no text of lines: {error}") from error


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def report(endpoint: str, kind: str) -> Steps[Json]:
    """Return what the newest shadow or experiment has shown so far."""
    answer: Json = json_of((yield admin_call("GET", _path(endpoint, kind))))
    return answer


def stop(endpoint: str, kind: str) -> Steps[Json]:
    """End the shadow or experiment that goes on."""
    body = {"by": whoever()}
    answer: Json = json_of((yield admin_call("POST", _path(endpoint, f"{kind}/stop"), body)))
    return answer


def _path(endpoint: str, what: str) -> str:
    return f"/endpoints/{check_name(endpoint, 'endpoint')}/{what}"
