"""Checks of inference that must fail: each wrong request gets an error, the next one an answer."""

from collections.abc import Callable
from typing import Any

from salver.conformance.base import (
    OIP,
    OIP_SCHEMA,
    V2,
    Failed,
    Level,
    NotApplicable,
    Section,
)
from salver.conformance.demands import answered, callers_fault, content_type, refused
from salver.conformance.outputs import read_answer
from salver.conformance.subject import JSON_TYPE, UNKNOWN, Subject
from salver.conformance.tensors import flat

SECTION = Section("refusal", "Refusals")

_ERROR = "Inference Response JSON Error Object"
_MUST = "A failed inference request must be indicated by an HTTP error status"
_BODY = "The HTTP body must contain the $inference_error_response object."
_INPUT = "Request Input"

Edit = Callable[[dict[str, Any]], None]


def _edited(subject: Subject, edit: Edit) -> dict[str, Any]:
    """Return the good request after an edit of its first input."""
    document = subject.good_request()
    if not document["inputs"]:
        raise NotApplicable("the model has no input")
    edit(document["inputs"][0])
    return document


def _data(item: dict[str, Any]) -> list[Any]:
    if not flat(item.get("data", [])):
        raise NotApplicable("the first input has no elements")
    return flat(item["data"])


@SECTION.check(Level.REQUIRED, V2, _ERROR, _MUST)
def malformed_json(subject: Subject) -> None:
    """A body that is no JSON is refused."""
    subject.good()
    refused(subject.infer(b'{"inputs": ['))


@SECTION.check(Level.REQUIRED, OIP, "Inference Request JSON Object", "is required in the HTTP body")
def empty_body(subject: Subject) -> None:
    """An empty body is refused."""
    subject.good()
    refused(subject.infer(b""))


@SECTION.check(Level.REQUIRED, V2, _ERROR, _BODY)
def no_object(subject: Subject) -> None:
    """A body that is JSON, but no object, is refused."""
    subject.good()
    refused(subject.infer([1, 2]))


@SECTION.check(
    Level.REQUIRED, OIP, "Inference Request JSON Object", '"inputs" : [ $request_input, ... ]'
)
def no_inputs(subject: Subject) -> None:
    """A request without "inputs" is refused."""
    document = subject.good_request()
    del document["inputs"]
    refused(subject.infer(document))


@SECTION.check(
    Level.REQUIRED, OIP, "Model Metadata Response JSON Object", "The inputs required by the model."
)
def missing_input(subject: Subject) -> None:
    """A request that lacks an input of the model is refused."""
    document = subject.good_request()
    optional = _optional_names(subject)
    for item in document["inputs"]:
        if item["name"] not in optional:
            document["inputs"].remove(item)
            refused(subject.infer(document))
            return
    raise NotApplicable("the model has no input that must be given")


def _optional_names(subject: Subject) -> set[str]:
    """Return inputs that the metadata's parameters call optional, as some servers do."""
    return {
        item["name"]
        for item in subject.metadata().get("inputs", [])
        if isinstance(item.get("parameters"), dict) and item["parameters"].get("optional")
    }


@SECTION.check(Level.REQUIRED, OIP, _INPUT, "The name of the input tensor.")
def renamed_input(subject: Subject) -> None:
    """An unknown input in the place of a required one is refused."""
    refused(subject.infer(_edited(subject, lambda item: item.update(name=UNKNOWN))))


@SECTION.check(
    Level.RECOMMENDED, OIP, "Model Metadata Response JSON Object", "“inputs” : The inputs required"
)
def extra_input(subject: Subject) -> None:
    """An unknown input beside the right ones is refused instead of dropped."""
    document = subject.good_request()
    document["inputs"].append({**document["inputs"][0], "name": UNKNOWN})
    refused(subject.infer(document))


@SECTION.check(Level.RECOMMENDED, OIP, "Request Output", "The name of the output tensor.")
def unknown_output(subject: Subject) -> None:
    """A request for an output that the model does not have is refused."""
    refused(subject.infer({**subject.good_request(), "outputs": [{"name": UNKNOWN}]}))


def _lacks(field: str) -> Callable[[Subject], None]:
    def run(subject: Subject) -> None:
        document = _edited(subject, lambda item: item.pop(field, None))
        refused(subject.infer(document))

    run.__name__ = f"no_{field}"
    run.__doc__ = f'An input without "{field}" is refused.'
    return run


for _field in ("name", "shape", "datatype", "data"):
    SECTION.check(
        Level.REQUIRED, OIP_SCHEMA, "request_input", "required: name, shape, datatype, data"
    )(_lacks(_field))


@SECTION.check(Level.REQUIRED, OIP, _INPUT, "as defined in Tensor Data Types")
def unknown_datatype(subject: Subject) -> None:
    """A datatype that does not exist is refused."""
    refused(subject.infer(_edited(subject, lambda item: item.update(datatype="FP33"))))


@SECTION.check(Level.RECOMMENDED, OIP, _INPUT, "The data-type of the input tensor elements")
def other_datatype(subject: Subject) -> None:
    """A datatype that the input does not have is refused."""

    def edit(item: dict[str, Any]) -> None:
        other = "INT8" if item["datatype"] == "BYTES" else "BYTES"
        values = _data(item)
        item.update(datatype=other, data=["a" if other == "BYTES" else 1] * len(values))

    refused(subject.infer(_edited(subject, edit)))


@SECTION.check(
    Level.REQUIRED, OIP, _INPUT, "the shape and data must represent the full shape and contents"
)
def too_little_data(subject: Subject) -> None:
    """Data with fewer elements than the shape says is refused."""
    refused(subject.infer(_edited(subject, lambda item: item.update(data=_data(item)[:-1]))))


@SECTION.check(
    Level.REQUIRED, OIP, _INPUT, "the shape and data must represent the full shape and contents"
)
def too_much_data(subject: Subject) -> None:
    """Data with more elements than the shape says is refused."""

    def edit(item: dict[str, Any]) -> None:
        values = _data(item)
        item["data"] = [*values, values[-1]]

    refused(subject.infer(_edited(subject, edit)))


@SECTION.check(
    Level.REQUIRED, OIP, _INPUT, "must be an integer representable as an unsigned 64-bit integer"
)
def negative_shape(subject: Subject) -> None:
    """A negative dimension is refused."""
    refused(subject.infer(_edited(subject, lambda item: item.update(shape=_changed(item, -1)))))


@SECTION.check(Level.REQUIRED, OIP, _INPUT, "Each dimension must be an integer")
def fractional_shape(subject: Subject) -> None:
    """A dimension that is no whole number is refused."""
    refused(subject.infer(_edited(subject, lambda item: item.update(shape=_changed(item, 1.5)))))


def _changed(item: dict[str, Any], size: float) -> list[Any]:
    if not item["shape"]:
        raise NotApplicable("the first input has no dimension")
    return [size, *item["shape"][1:]]


@SECTION.check(
    Level.REQUIRED,
    OIP,
    "Model Metadata Response JSON Object",
    '"shape" : The shape of the tensor.',
)
def other_rank(subject: Subject) -> None:
    """An input with another number of dimensions than the metadata say is refused."""
    subject.specs("inputs")
    refused(subject.infer(_edited(subject, lambda item: item.update(shape=[*item["shape"], 1, 1]))))


@SECTION.check(
    Level.RECOMMENDED, V2, "Tensor Data", "in their nature multi-dimensional representation"
)
def other_form(subject: Subject) -> None:
    """Nested data whose form is not that of the shape is refused."""

    def edit(item: dict[str, Any]) -> None:
        values = _data(item)
        if len(values) < 2:  # noqa: PLR2004
            raise NotApplicable("the first input has one element only")
        parts = [values[:-1], values[-1:]]
        item["data"] = [parts] if item["shape"] == [2, 1] else parts

    refused(subject.infer(_edited(subject, edit)))


@SECTION.check(Level.REQUIRED, V2, "HTTP/REST", "All strings in all contexts are case-sensitive.")
def datatype_case(subject: Subject) -> None:
    """A datatype in lower case is not the datatype."""
    refused(subject.infer(_edited(subject, lambda i: i.update(datatype=i["datatype"].lower()))))


@SECTION.check(Level.REQUIRED, V2, _ERROR, _MUST)
def unknown_model(subject: Subject) -> None:
    """Inference of an unknown model is refused."""
    refused(subject.infer(subject.good_request(), model=UNKNOWN))


@SECTION.check(Level.REQUIRED, V2, _ERROR, _BODY)
def unknown_version(subject: Subject) -> None:
    """Inference of an unknown version is refused."""
    refused(subject.infer(subject.good_request(), version="987654"))


@SECTION.check(
    Level.RECOMMENDED, OIP, "Inference", "An inference request is made with an HTTP POST"
)
def method(subject: Subject) -> None:
    """GET on the path of inference is refused with a status of 400 to 499."""
    callers_fault(subject.get(f"{subject.model_path()}/infer"))


def _wrong_requests(subject: Subject) -> dict[str, Any]:
    """Return requests that a caller got wrong in ways that every server must notice."""
    return {
        "broken JSON": b'{"inputs": [',
        "no input": {**subject.good_request(), "inputs": []},
        "an unknown input": _edited(subject, lambda item: item.update(name=UNKNOWN)),
        "an unknown datatype": _edited(subject, lambda item: item.update(datatype="FP33")),
        "too little data": _edited(subject, lambda item: item.update(data=_data(item)[:-1])),
    }


@SECTION.check(Level.RECOMMENDED, V2, _ERROR, "an HTTP error status (typically 400)")
def callers_status(subject: Subject) -> None:
    """What the caller got wrong has a status of 400 to 499, so that nobody blames the server."""
    for what, document in _wrong_requests(subject).items():
        exchange = subject.infer(document)
        try:
            callers_fault(exchange)
        except Failed as error:
            raise Failed(f"{what}: {error}") from error


@SECTION.check(Level.RECOMMENDED, V2, _ERROR, '"error": <error message string>')
def error_content_type(subject: Subject) -> None:
    """An error comes as application/json."""
    subject.good()
    content_type(subject.infer(b'{"inputs": ['), JSON_TYPE)


@SECTION.check(
    Level.REQUIRED,
    OIP,
    "Health/Readiness/Liveness Probes",
    "Is my service and its infrastructure running, healthy, and able to receive and process "
    "requests?",
)
def still_answers(subject: Subject) -> None:
    """After wrong requests the right one is answered as before."""
    request = subject.good_request()
    for document in _wrong_requests(subject).values():
        answered(subject.infer(document))
    names = {output.name for output in read_answer(subject.infer(request)).outputs}
    wanted = {output.name for output in subject.good().outputs}
    if names != wanted:
        raise Failed(f"the outputs are {sorted(names)} instead of {sorted(wanted)}")
