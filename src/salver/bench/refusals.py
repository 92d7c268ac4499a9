"""What a gRPC call was refused with, from its trailers: a name to count it by, and an error."""

from urllib.parse import unquote

from salver.bench.carrier import plain
from salver.bench.heads import PATH, Fields
from salver.bench.target import Target
from salver.core.errors import Internal, SalverError, UnsupportedOperation, from_code

_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_BY_NUMBER = {str(number).encode(): name for number, name in enumerate(_NAMES)}
_UNIMPLEMENTED = b"12"
_MAX_MESSAGE = 1024


def name_of(fields: Fields) -> str:
    """Name a refusal by gRPC's status and the server's own code, or by HTTP's status."""
    status = fields.get(b"grpc-status")
    if status is None:
        return f"HTTP {_text(fields, b':status')} without grpc-status"
    name = _BY_NUMBER.get(status) or _text(fields, b"grpc-status")
    return f"{name} {_text(fields, b'x-salver-code')}".rstrip()


def _text(fields: Fields, name: bytes) -> str:
    return plain(fields.get(name, b"").decode("latin-1"))


def error_of(fields: Fields, target: Target) -> SalverError:
    """Return what a call was refused with: the server's own coded error where there is one."""
    text = unquote(fields.get(b"grpc-message", b"").decode("latin-1"))[:_MAX_MESSAGE]
    code = fields.get(b"x-salver-code")
    if code is not None:
        return from_code(code.decode("latin-1"), text)
    status = fields.get(b"grpc-status")
    if status is None or status == _UNIMPLEMENTED:
        return UnsupportedOperation(
            f"{target.authority} has no {PATH[1:]} ({name_of(fields)}); name a port of Salver's "
            "with --url, or take --protocol rest"
        )
    return Internal(f"gRPC status {name_of(fields)} without a coded error: {text}")
