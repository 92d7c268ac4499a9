"""Checks of other extensions, each asked only where the server names it."""

from typing import Any

from salver.conformance.base import Failed, Level, Section
from salver.conformance.demands import an_object, json_of, listing, object_of, refused, text
from salver.conformance.outputs import read_answer
from salver.conformance.subject import UNKNOWN, Subject

SECTION = Section("extension", "Other extensions")

_STATISTICS = "Triton, extension_statistics.md"
_CONFIGURATION = "Triton, extension_model_configuration.md"
_REPOSITORY = "Triton, extension_model_repository.md"


def _statistics(subject: Subject) -> dict[str, Any]:
    """Return the statistics of the model's first version."""
    document = object_of(subject.get(f"{subject.model_path()}/stats"))
    for item in listing(document, "model_stats"):
        if text(an_object(item, "one of model_stats"), "name") == subject.model:
            found: dict[str, Any] = item
            return found
    raise Failed(f"'model_stats' has nothing about {subject.model!r}")


def _number(document: dict[str, Any], name: str) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Failed(f"{name!r} is {value!r:.60} instead of a count")
    return value


@SECTION.check(
    Level.EXTENSION,
    _STATISTICS,
    "Statistics Response JSON Object",
    "A successful statistics request is indicated by a 200 HTTP status code.",
)
def statistics(subject: Subject) -> None:
    """GET v2/models/M/stats gives the counts of the model."""
    subject.extension("statistics")
    found = _statistics(subject)
    for name in ("last_inference", "inference_count", "execution_count"):
        _number(found, name)
    durations = an_object(found.get("inference_stats"), "inference_stats")
    for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        duration = an_object(durations.get(name), f"inference_stats.{name}")
        _number(duration, "count")
        _number(duration, "ns")


@SECTION.check(
    Level.EXTENSION,
    _STATISTICS,
    "Statistics Response JSON Object",
    "The cumulative count of successful inference requests made for this model.",
)
def statistics_count(subject: Subject) -> None:
    """An answered inference raises "inference_count"."""
    subject.extension("statistics")
    request = subject.good_request()
    before = _number(_statistics(subject), "inference_count")
    read_answer(subject.infer(request))
    after = _number(_statistics(subject), "inference_count")
    if after <= before:
        raise Failed(f"'inference_count' went from {before} to {after} with an inference between")


@SECTION.check(
    Level.EXTENSION,
    _STATISTICS,
    "Statistics Response JSON Error Object",
    "A failed statistics request will be indicated by an HTTP error status",
)
def statistics_unknown(subject: Subject) -> None:
    """Statistics of an unknown model are refused."""
    subject.extension("statistics")
    refused(subject.get(f"{subject.model_path(model=UNKNOWN)}/stats"))


@SECTION.check(
    Level.EXTENSION,
    _CONFIGURATION,
    "HTTP/REST",
    "A model configuration request is made with an HTTP GET to the model configuration endpoint.",
)
def configuration(subject: Subject) -> None:
    """GET v2/models/M/config gives the model's name and its inputs and outputs."""
    subject.extension("model_configuration")
    document = object_of(subject.get(f"{subject.model_path()}/config"))
    if text(document, "name") != subject.model:
        raise Failed(f"'name' is {document['name']!r} instead of {subject.model!r}")
    for side in ("input", "output"):
        for item in listing(document, side):
            text(an_object(item, f"one of {side}"), "name")
            if not text(item, "data_type").startswith("TYPE_"):
                raise Failed(f"'data_type' is {item['data_type']!r}, which is no TYPE_ name")
            listing(item, "dims")


@SECTION.check(
    Level.EXTENSION,
    _CONFIGURATION,
    "HTTP/REST",
    "A failed model configuration request must be indicated by an HTTP error status",
)
def configuration_unknown(subject: Subject) -> None:
    """The configuration of an unknown model is refused."""
    subject.extension("model_configuration")
    refused(subject.get(f"{subject.model_path(model=UNKNOWN)}/config"))


@SECTION.check(
    Level.EXTENSION,
    _REPOSITORY,
    "Index",
    "returns information about every model available in a model repository",
)
def repository_index(subject: Subject) -> None:
    """POST v2/repository/index gives an array that holds the model."""
    subject.extension("model_repository")
    found = json_of(subject.client.ask("POST", "/v2/repository/index", b"{}"))
    if not isinstance(found, list):
        raise Failed("the index is no array")
    names = [text(an_object(item, "an entry of the index"), "name") for item in found]
    if subject.model not in names:
        raise Failed(f"the index lacks {subject.model!r}")
