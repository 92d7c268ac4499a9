"""Checks of a model's metadata and readiness."""

from typing import Any

from salver.conformance.base import OIP, V2, Failed, Level, NotApplicable, Section
from salver.conformance.demands import (
    an_object,
    answered,
    listing,
    object_of,
    ok,
    refused,
    text,
    texts,
)
from salver.conformance.subject import UNKNOWN, Subject
from salver.conformance.tensors import KNOWN

SECTION = Section("model", "Model metadata and readiness")

_METADATA = "Model Metadata Response JSON Object"
_ERROR = "Model Metadata Response JSON Error Object"
_READY = "API Definitions, Model Ready"


@SECTION.check(
    Level.REQUIRED,
    OIP,
    _METADATA,
    "A successful model metadata request is indicated by a 200 HTTP status code.",
)
def metadata(subject: Subject) -> None:
    """GET v2/models/M answers with 200 and a JSON object."""
    object_of(subject.get(subject.model_path()))


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "The name of the model.")
def name(subject: Subject) -> None:
    """The metadata's "name" is the name that was asked for."""
    found = text(object_of(subject.get(subject.model_path())), "name")
    if found != subject.model:
        raise Failed(f"'name' is {found!r} instead of {subject.model!r}")


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "The framework/backend for the model.")
def platform(subject: Subject) -> None:
    """The metadata's "platform" is a text."""
    text(object_of(subject.get(subject.model_path())), "platform")


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "The inputs required by the model.")
def inputs(subject: Subject) -> None:
    """The metadata's "inputs" is an array of objects, each with a name of its own."""
    _names(object_of(subject.get(subject.model_path())), "inputs")


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "The outputs produced by the model.")
def outputs(subject: Subject) -> None:
    """The metadata's "outputs" is an array of objects, each with a name of its own."""
    _names(object_of(subject.get(subject.model_path())), "outputs")


def _names(document: dict[str, Any], side: str) -> None:
    names = [text(an_object(item, f"one of {side}"), "name") for item in listing(document, side)]
    if len(names) != len(set(names)):
        raise Failed(f"two of {side!r} have the same name")


def _tensors(subject: Subject) -> list[dict[str, Any]]:
    document = object_of(subject.get(subject.model_path()))
    sides = (document.get("inputs"), document.get("outputs"))
    found = [item for side in sides if isinstance(side, list) for item in side]
    if not found:
        raise NotApplicable("the metadata name no tensors")
    return [an_object(item, "a tensor's metadata") for item in found]


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "The data-type of the tensor elements as defined in")
def datatypes(subject: Subject) -> None:
    """Every tensor's "datatype" is one that the protocol defines."""
    for item in _tensors(subject):
        if text(item, "datatype") not in KNOWN:
            raise Failed(f"{item['datatype']!r} is no datatype of the protocol")


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "Variable-size dimensions are specified as -1.")
def shapes(subject: Subject) -> None:
    """Every tensor's "shape" is an array of whole numbers, none less than -1."""
    for item in _tensors(subject):
        for size in listing(item, "shape"):
            if not isinstance(size, int) or isinstance(size, bool) or size < -1:
                raise Failed(f"tensor {item.get('name')!r} has the shape {item['shape']}")


@SECTION.check(
    Level.REQUIRED, OIP, _METADATA, "The model versions that may be explicitly requested"
)
def versions(subject: Subject) -> None:
    """The metadata's "versions", if there are any, is an array of texts."""
    document = object_of(subject.get(subject.model_path()))
    if "versions" not in document:
        raise NotApplicable("the metadata have no versions, which are optional")
    texts(document, "versions")


@SECTION.check(
    Level.REQUIRED,
    OIP,
    "HTTP/REST",
    "when the user does not want to specify a specific model version",
)
def metadata_of_version(subject: Subject) -> None:
    """GET v2/models/M/versions/V answers for a version that the metadata name."""
    found = text(object_of(subject.get(subject.model_path(subject.versions()[0]))), "name")
    if found != subject.model:
        raise Failed(f"'name' is {found!r} instead of {subject.model!r}")


@SECTION.check(
    Level.REQUIRED,
    OIP,
    _ERROR,
    "A failed model metadata request must be indicated by an HTTP error status",
)
def unknown_model(subject: Subject) -> None:
    """Metadata of an unknown model are refused with an error object."""
    refused(subject.get(subject.model_path(model=UNKNOWN)))


@SECTION.check(
    Level.REQUIRED,
    OIP,
    _ERROR,
    "The HTTP body must contain the $metadata_model_error_response object.",
)
def unknown_version(subject: Subject) -> None:
    """Metadata of an unknown version are refused with an error object."""
    refused(subject.get(subject.model_path("987654")))


@SECTION.check(Level.REQUIRED, V2, "HTTP/REST", "All strings in all contexts are case-sensitive.")
def name_case(subject: Subject) -> None:
    """A model's name in other case is another name."""
    other = subject.model.swapcase()
    if other == subject.model:
        raise NotApplicable("the model's name has no letters")
    exchange = subject.get(subject.model_path(model=other))
    answered(exchange)
    if exchange.status == 200 and object_of(exchange).get("name") != other:  # noqa: PLR2004
        raise Failed(f"{other!r} is answered like {subject.model!r}")


@SECTION.check(
    Level.REQUIRED, OIP, _READY, "indicates if a specific model is ready for inferencing"
)
def ready(subject: Subject) -> None:
    """GET v2/models/M/ready answers 200 for a model that is ready."""
    ok(subject.get(f"{subject.model_path()}/ready"))


@SECTION.check(Level.RECOMMENDED, OIP, "Model Ready Response JSON Object", '"ready": $bool')
def ready_body(subject: Subject) -> None:
    """The model ready answer is an object with the model's name and "ready" as true."""
    document = object_of(subject.get(f"{subject.model_path()}/ready"))
    if document.get("ready") is not True:
        raise Failed("'ready' is not true")
    if text(document, "name") != subject.model:
        raise Failed(f"'name' is not {subject.model!r}")


@SECTION.check(
    Level.REQUIRED, OIP, _READY, "The model name and (optionally) version must be available"
)
def ready_of_version(subject: Subject) -> None:
    """GET v2/models/M/versions/V/ready answers 200 for a version that the metadata name."""
    ok(subject.get(f"{subject.model_path(subject.versions()[0])}/ready"))


@SECTION.check(
    Level.REQUIRED,
    V2,
    "Health",
    "A 200 status code indicates true and a 4xx status code indicates false.",
)
def unknown_not_ready(subject: Subject) -> None:
    """An unknown model is not ready."""
    exchange = subject.get(f"{subject.model_path(model=UNKNOWN)}/ready")
    answered(exchange)
    if exchange.status < 400:  # noqa: PLR2004
        raise Failed(f"status {exchange.status} says that an unknown model is ready")
