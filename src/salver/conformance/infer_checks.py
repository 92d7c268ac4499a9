"""Checks of inference that succeeds: what a request may say and what its answer holds."""

import json
from typing import Any

from salver.conformance.base import OIP, V2, Failed, Level, NotApplicable, Section
from salver.conformance.demands import content_type, ok, text
from salver.conformance.outputs import Answer, read_answer
from salver.conformance.subject import JSON_TYPE, UNKNOWN, Subject
from salver.conformance.tensors import flat, nested

SECTION = Section("infer", "Inference")

_REQUEST = "Inference Request JSON Object"
_RESPONSE = "Inference Response JSON Object"
_DATA = "Tensor Data"


@SECTION.check(
    Level.REQUIRED,
    OIP,
    _RESPONSE,
    "A successful inference request is indicated by a 200 HTTP status code.",
)
def answers(subject: Subject) -> None:
    """POST v2/models/M/infer answers a request that fits the metadata with 200 and outputs."""
    read_answer(subject.infer(subject.request()))


@SECTION.check(Level.REQUIRED, OIP, _RESPONSE, "The name of the model used for inference.")
def model_name(subject: Subject) -> None:
    """The answer's "model_name" is the model that was asked."""
    document = read_answer(subject.infer(subject.good_request())).document
    if text(document, "model_name") != subject.model:
        raise Failed(f"'model_name' is {document['model_name']!r} instead of {subject.model!r}")


@SECTION.check(Level.REQUIRED, OIP, _RESPONSE, "The specific model version used for inference.")
def model_version(subject: Subject) -> None:
    """The answer's "model_version", if there is one, is among the metadata's versions."""
    document = read_answer(subject.infer(subject.good_request())).document
    if document.get("model_version") is None:
        raise NotApplicable("the answer has no model_version, which is optional")
    if text(document, "model_version") not in subject.versions():
        raise Failed(f"'model_version' {document['model_version']!r} is not in the metadata")


@SECTION.check(
    Level.REQUIRED,
    OIP,
    _REQUEST,
    "if not specified all outputs produced by the model will be returned",
)
def all_outputs(subject: Subject) -> None:
    """Without "outputs" every output of the metadata is returned, once."""
    specs = subject.specs("outputs")
    names = [output.name for output in _answer(subject).outputs]
    for spec in specs:
        if names.count(spec.name) != 1:
            raise Failed(f"output {spec.name!r} is returned {names.count(spec.name)} times")


@SECTION.check(Level.REQUIRED, OIP, "Model Metadata Response JSON Object", '"datatype" : $string')
def output_datatypes(subject: Subject) -> None:
    """Every output has the datatype that the metadata say."""
    specs = subject.specs("outputs")
    answer = _answer(subject)
    for spec in specs:
        found = answer.output(spec.name).datatype
        if found != spec.datatype:
            raise Failed(f"output {spec.name!r} is {found}, the metadata say {spec.datatype}")


@SECTION.check(
    Level.REQUIRED,
    OIP,
    "Model Metadata Response JSON Object",
    "Variable-size dimensions are specified as -1.",
)
def output_shapes(subject: Subject) -> None:
    """Every output's shape has as many dimensions as the metadata say, and the fixed ones."""
    specs = subject.specs("outputs")
    answer = _answer(subject)
    for spec in specs:
        found = answer.output(spec.name).shape
        fits = len(found) == len(spec.shape) and all(
            wanted in (-1, size) for wanted, size in zip(spec.shape, found, strict=True)
        )
        if not fits:
            raise Failed(
                f"output {spec.name!r} has the shape {found}, the metadata say {list(spec.shape)}"
            )


@SECTION.check(
    Level.REQUIRED, OIP, _REQUEST, "if specified this identifier must be returned in the response"
)
def request_id(subject: Subject) -> None:
    """The request's "id" is in the answer, unchanged."""
    for wanted in ("42", 'a longer id: ä€ "quoted"'):
        exchange = subject.infer({**subject.good_request(), "id": wanted})
        try:
            document = read_answer(exchange).document
        except Failed as error:
            raise Failed(f"with the id {wanted!r}: {error}") from error
        if document.get("id") != wanted:
            raise Failed(f"'id' is {document.get('id')!r} instead of {wanted!r}")


@SECTION.check(Level.REQUIRED, OIP, _REQUEST, "An identifier for this request. Optional")
def no_request_id(subject: Subject) -> None:
    """A request without "id" is answered, and an "id" in its answer is a text."""
    document = read_answer(subject.infer(subject.good_request())).document
    if document.get("id") is not None:
        text(document, "id")


@SECTION.check(Level.REQUIRED, V2, _DATA, "or as a flattened one-dimensional representation")
def flat_data(subject: Subject) -> None:
    """Data may be given flat, in row-major order."""
    document = subject.request()
    for item in _json_inputs(document):
        item["data"] = flat(item["data"])
    _same(subject, read_answer(subject.infer(document)))


@SECTION.check(
    Level.REQUIRED, V2, _DATA, "may be presented in their nature multi-dimensional representation"
)
def nested_data(subject: Subject) -> None:
    """Data may be given nested as the shape says, and means the same as flat data."""
    document = subject.request()
    deep = False
    for item in _json_inputs(document):
        item["data"] = nested(flat(item["data"]), item["shape"])
        deep = deep or len(item["shape"]) > 1
    if not deep:
        raise NotApplicable("no input has two dimensions")
    _same(subject, read_answer(subject.infer(document)))


def _json_inputs(document: dict[str, Any]) -> list[dict[str, Any]]:
    if not all("data" in item for item in document["inputs"]):
        raise NotApplicable("the example holds inputs without data")
    inputs: list[dict[str, Any]] = document["inputs"]
    return inputs


def _same(subject: Subject, answer: Answer) -> None:
    """Demand the good answer, where the model answers the form that it was asked in."""
    if subject.is_answered:
        subject.demand_good(answer)


def _answer(subject: Subject) -> Answer:
    return read_answer(subject.infer(subject.good_request()))


@SECTION.check(
    Level.REQUIRED,
    OIP,
    "Inference Request Examples",
    "the inference server must return the “output0” output tensor",
)
def chosen_outputs(subject: Subject) -> None:
    """With "outputs", exactly the named ones are returned."""
    for chosen in subject.good().outputs:
        document = {**subject.good_request(), "outputs": [{"name": chosen.name}]}
        names = [output.name for output in read_answer(subject.infer(document)).outputs]
        if names != [chosen.name]:
            raise Failed(f"{[chosen.name]} is asked for, {names} is returned")


@SECTION.check(Level.REQUIRED, OIP, _REQUEST, "An object containing zero or more parameters")
def empty_parameters(subject: Subject) -> None:
    """Empty "parameters" of the request, an input and an output are accepted."""
    document: dict[str, Any] = {"parameters": {}, **subject.good_request()}
    document["inputs"] = [{"parameters": {}, **item} for item in document["inputs"]]
    document["outputs"] = [
        {"name": output.name, "parameters": {}} for output in subject.good().outputs
    ]
    read_answer(subject.infer(document))


@SECTION.check(
    Level.RECOMMENDED, V2, "Parameters", "A server can implement server-specific parameters"
)
def unknown_parameters(subject: Subject) -> None:
    """Parameters that the server does not know, of each type, are accepted."""
    document = subject.good_request()
    parameters = {"conformance_text": "a", "conformance_number": 1, "conformance_flag": True}
    document["parameters"] = {**document.get("parameters", {}), **parameters}
    read_answer(subject.infer(document))


@SECTION.check(
    Level.RECOMMENDED,
    V2,
    "Predict Protocol - Version 2",
    "supports an extension mechanism as a required part of the API",
)
def unknown_fields(subject: Subject) -> None:
    """Fields that the protocol does not know are ignored."""
    read_answer(subject.infer({**subject.good_request(), UNKNOWN: [1, {"a": None}]}))


@SECTION.check(
    Level.REQUIRED, OIP, "HTTP/REST", "v2/models/<model_name>[/versions/\\<model_version\\>]/infer"
)
def version_path(subject: Subject) -> None:
    """POST v2/models/M/versions/V/infer answers with that version."""
    request = subject.good_request()
    version = subject.versions()[0]
    document = read_answer(subject.infer(request, version)).document
    if document.get("model_version", version) != version:
        raise Failed(f"version {version!r} is asked, {document['model_version']!r} answers")


@SECTION.check(
    Level.RECOMMENDED, OIP, "Inference Request Examples", "Content-Type: application/json"
)
def answer_content_type(subject: Subject) -> None:
    """An answer without binary data comes as application/json."""
    exchange = subject.infer(subject.good_request())
    ok(exchange)
    content_type(exchange, JSON_TYPE)


@SECTION.check(
    Level.RECOMMENDED,
    OIP,
    "HTTP/REST",
    "The HTTP/REST API uses JSON because it is widely supported",
)
def no_content_type(subject: Subject) -> None:
    """A request without Content-Type is read as JSON, since clients send such requests."""
    body = json.dumps(subject.good_request()).encode()
    read_answer(subject.client.ask("POST", f"{subject.model_path()}/infer", body))
