"""Server reflection: tools learn from the server itself what can be called."""

from functools import cache
from typing import Any

from salver.core.context import Principal
from salver.gateway.grpc.dialogue import Dialogue
from salver.gateway.grpc.framing import Buffer
from salver.gateway.grpc.infer import parse
from salver.gateway.grpc.schema import files, message_class
from salver.gateway.grpc.services.table import Streaming, Streamings
from salver.gateway.statuses import Grpc

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_MAX_ECHOED_CHARS = 200


class ReflectionService:
    """Hands out the descriptions of all services; ``streamings`` are its calls."""

    def __init__(self) -> None:
        self.streamings: Streamings = {
            f"{package}.ServerReflection/ServerReflectionInfo": _streaming(package)
            for package in PACKAGES
        }


def _streaming(package: str) -> Streaming:
    def begin(dialogue: Dialogue, principal: Principal) -> ReflectionSpeaker:
        del principal
        return ReflectionSpeaker(dialogue, package)

    return Streaming(begin)


class ReflectionSpeaker:
    """Answers questions one by one; what is not known is said in the answer."""

    def __init__(self, dialogue: Dialogue, package: str) -> None:
        self._dialogue = dialogue
        self._package = package

    def take(self, message: Buffer) -> None:
        """Answer one question; raises ``InvalidRequest`` for what is no message."""
        request = parse(f"{self._package}.ServerReflectionRequest", message)
        response = message_class(f"{self._package}.ServerReflectionResponse")(
            valid_host=request.host, original_request=request
        )
        _answer(request, response)
        self._dialogue.send((response.SerializeToString(),))

    def drain(self) -> None:
        """Nothing is open between two questions."""

    def leave(self) -> None:
        """Nothing is open between two questions."""


def _answer(request: Any, response: Any) -> None:
    asked = request.WhichOneof("message_request")
    if asked == "list_services":
        for name in sorted(files()):
            response.list_services_response.service.add(name=name)
    elif asked in ("file_by_filename", "file_containing_symbol"):
        wanted = getattr(request, asked)
        found = (_by_name() if asked == "file_by_filename" else _by_symbol()).get(wanted)
        if found is None:
            response.error_response.error_code = Grpc.NOT_FOUND
            response.error_response.error_message = (
                f"nothing here is {wanted[:_MAX_ECHOED_CHARS]!r}"
            )
        else:
            response.file_descriptor_response.file_descriptor_proto.append(found)
    else:
        response.error_response.error_code = Grpc.UNIMPLEMENTED
        response.error_response.error_message = "the services here use no extensions"


@cache
def _by_name() -> dict[str, bytes]:
    return {file.name: file.SerializeToString() for file in files().values()}


@cache
def _by_symbol() -> dict[str, bytes]:
    """Return the files by the full names of what is in them."""
    found: dict[str, bytes] = {}
    for service, file in files().items():
        data = file.SerializeToString()
        found[service] = data
        for method in file.service[0].method:
            found[f"{service}.{method.name}"] = data
        names = [f"{file.package}.{enum.name}" for enum in file.enum_type]
        for message in file.message_type:
            names += _names(message, file.package)
        found.update(dict.fromkeys(names, data))
    return found


def _names(message: Any, scope: str) -> list[str]:
    """Return the full names of a message, its fields, and what is nested in it."""
    own = f"{scope}.{message.name}"
    names = [own, *[f"{own}.{field.name}" for field in message.field]]
    names += [f"{own}.{enum.name}" for enum in message.enum_type]
    for nested in message.nested_type:
        names += _names(nested, own)
    return names
