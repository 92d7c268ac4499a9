"""Checks of the server itself: health, metadata, connections."""

from salver.conformance.base import HTTP, OIP, V2, Failed, Level, Section
from salver.conformance.demands import (
    answered,
    callers_fault,
    content_type,
    json_of,
    object_of,
    ok,
    text,
    texts,
)
from salver.conformance.subject import JSON_TYPE, UNKNOWN, Subject

SECTION = Section("server", "Server")

_METADATA = "Server Metadata Response JSON Object"


@SECTION.check(
    Level.REQUIRED,
    OIP,
    "API Definitions, Server Live",
    "indicates if the inference server is able to receive and respond to metadata and "
    "inference requests",
)
def live(subject: Subject) -> None:
    """A running server answers GET v2/health/live with 200."""
    ok(subject.get("/v2/health/live"))


@SECTION.check(Level.RECOMMENDED, OIP, "Server Live Response JSON Object", '"live" : $bool')
def live_body(subject: Subject) -> None:
    """The live answer is an object in which "live" is true."""
    _is_true(subject, "/v2/health/live", ("live",))


@SECTION.check(
    Level.REQUIRED,
    OIP,
    "API Definitions, Server Ready",
    "indicates if all the models are ready for inferencing",
)
def ready(subject: Subject) -> None:
    """A ready server answers GET v2/health/ready with 200."""
    ok(subject.get("/v2/health/ready"))


@SECTION.check(Level.RECOMMENDED, OIP, "Server Ready Response JSON Object", '"live" : $bool')
def ready_body(subject: Subject) -> None:
    """The ready answer is an object in which "ready" (or "live", as printed) is true."""
    _is_true(subject, "/v2/health/ready", ("ready", "live"))


def _is_true(subject: Subject, path: str, names: tuple[str, ...]) -> None:
    document = object_of(subject.get(path))
    if not any(document.get(name) is True for name in names):
        raise Failed(f"{' or '.join(repr(name) for name in names)} is not true")


@SECTION.check(
    Level.REQUIRED,
    OIP,
    _METADATA,
    "A successful server metadata request is indicated by a 200 HTTP status code.",
)
def metadata(subject: Subject) -> None:
    """GET v2 answers with 200 and a JSON object."""
    object_of(subject.get("/v2"))


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "A descriptive name for the server.")
def name(subject: Subject) -> None:
    """The server metadata's "name" is a text that is not empty."""
    if not text(object_of(subject.get("/v2")), "name"):
        raise Failed("'name' is empty")


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "The server version.")
def version(subject: Subject) -> None:
    """The server metadata's "version" is a text."""
    text(object_of(subject.get("/v2")), "version")


@SECTION.check(Level.REQUIRED, OIP, _METADATA, "The extensions supported by the server.")
def extensions(subject: Subject) -> None:
    """The server metadata's "extensions" is an array of texts."""
    texts(object_of(subject.get("/v2")), "extensions")


@SECTION.check(
    Level.RECOMMENDED,
    OIP,
    "HTTP/REST",
    "The HTTP/REST API uses JSON because it is widely supported",
)
def metadata_content_type(subject: Subject) -> None:
    """Metadata come as application/json."""
    exchange = subject.get("/v2")
    json_of(exchange)
    content_type(exchange, JSON_TYPE)


@SECTION.check(Level.RECOMMENDED, V2, "HTTP/REST", "the server must recognize the following URLs")
def unknown_path(subject: Subject) -> None:
    """A path that the protocol does not know is refused with a status of 400 to 499."""
    callers_fault(subject.get(f"/v2/{UNKNOWN}"))


@SECTION.check(
    Level.RECOMMENDED, HTTP, "9.3", 'HTTP/1.1 defaults to the use of "persistent connections"'
)
def keep_alive(subject: Subject) -> None:
    """A second request goes over the connection of the first."""
    first = subject.get("/v2/health/live")
    answered(first)
    second = subject.get("/v2/health/live")
    answered(second)
    if second.connections:
        raise Failed("the server closed the connection after an answer")
