"""From what a person writes to a subject that checks can ask."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from salver.conformance.client import TIMEOUT_S, Client
from salver.conformance.grpc_client import GrpcClient
from salver.conformance.subject import Subject
from salver.core.errors import InvalidExample, InvalidRequest

_MAX_EXAMPLE_BYTES = 16 * 1024 * 1024


@contextmanager
def opened(
    url: str,
    *models: str,
    grpc: str = "",
    api_key: str = "",
    example: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[Subject]:
    """Give a prepared subject and close its connections afterwards.

    The first of ``models`` is asked everything, and the others what it cannot be asked; without a
    name it is the first that the server lists. ``example`` is a request for the first.
    ``grpc`` is the address HOST:PORT of the gRPC port, if that is to be asked as well.
    Raises ``InvalidRequest`` for an address that is none, ``InvalidExample`` for an example that
    cannot be read, and what ``Subject.prepare`` and ``GrpcClient.start`` raise.
    """
    client = Client(base_url(url), api_key, timeout_s)
    first, *more = models or ("",)
    subject = Subject(client, first, None if example is None else _read(example))
    subject.others = tuple(Subject(client, model) for model in more)
    client.start()
    try:
        if grpc:
            subject.grpc = GrpcClient(_grpc_address(grpc), api_key, timeout_s, client.record)
            subject.grpc.start()
        for each in (subject, *subject.others):
            each.grpc = subject.grpc
            each.prepare()
        for other in subject.others:
            # The first is judged; of the others nobody would see that they were never asked.
            if not other.is_answered:
                raise InvalidRequest(
                    f"model {other.model!r} does not answer a request made from its metadata; "
                    "name another one with --model"
                )
        yield subject
    finally:
        if subject.grpc is not None:
            subject.grpc.stop()
        client.stop()


def base_url(text: str) -> str:
    """Return an address with its scheme; raises ``InvalidRequest``."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        # A password in an address would be shown with it.
        right = right and parts.username is None
    except ValueError:
        right = False
    if not right:
        raise InvalidRequest(f"{text!r} is no address; write it like http://127.0.0.1:8080")
    return url


def _grpc_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise InvalidRequest(f"{text!r} is no gRPC address; write it like 127.0.0.1:8081")
    return text


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as source:
            data = source.read(_MAX_EXAMPLE_BYTES + 1)
    except OSError as error:
        raise InvalidExample(f"{path}: {error.strerror}; name a file that can be read") from error
    if len(data) > _MAX_EXAMPLE_BYTES:
        raise InvalidExample(f"{path} is over {_MAX_EXAMPLE_BYTES} bytes; take a smaller request")
    try:
        return json.loads(data)
    except ValueError as error:
        raise InvalidExample(f"{path} is not JSON ({error}); write one request as JSON") from error
