"""The paths of the extensions."""

from typing import NamedTuple

from salver.core.names import check_name

_READ: tuple[bytes, ...] = (b"GET", b"HEAD")
_WRITE: tuple[bytes, ...] = (b"POST",)


class Call(NamedTuple):
    """What a path stands for, and the methods it is asked with.

    ``name`` is that of an endpoint, a repository or a region, empty for all of them; ``repository``
    is where an endpoint's model is sought, if that is said.
    """

    action: str
    methods: tuple[bytes, ...]
    name: str = ""
    version: str | None = None
    repository: str = ""

    @property
    def allowed(self) -> bytes:
        """The value of the ``Allow`` field."""
        return b", ".join((*self.methods, b"OPTIONS"))


_FIXED: dict[tuple[str, ...], Call] = {
    ("repository", "index"): Call("index", _WRITE),
    ("models", "stats"): Call("statistics", _READ),
    ("trace", "setting"): Call("trace", _READ),
    ("logging",): Call("logging", _READ),
}


def parse_call(parts: list[str]) -> Call | None:
    """Return the call for the parts of a path after ``/v2``, None if it is not an extension's.

    Raises ``InvalidName``.
    """
    fixed = _FIXED.get(tuple(parts))
    if fixed is not None:
        return fixed
    match parts:
        case ["repository", *rest]:
            return _repository_call(rest)
        case ["models", name, "versions", version, *rest]:
            return _model_call(name, version, rest)
        case ["models", name, *rest]:
            return _model_call(name, None, rest)
        case ["systemsharedmemory" | "cudasharedmemory", *rest]:
            return _memory_call(rest)
        case _:
            return None


def _repository_call(rest: list[str]) -> Call | None:
    match rest:
        case [repository, "index"]:
            return Call("index", _WRITE, repository)
        case ["models", name, "load" | "unload" as action]:
            return Call(action, _WRITE, check_name(name, "endpoint"))
        case [repository, "models", name, "load" | "unload" as action]:
            return Call(action, _WRITE, check_name(name, "endpoint"), repository=repository)
        case _:
            return None


def _model_call(name: str, version: str | None, rest: list[str]) -> Call | None:
    match rest:
        case ["config"]:
            action, methods = "config", _READ
        case ["stats"]:
            action, methods = "statistics", _READ
        case ["trace", "setting"] if version is None:
            action, methods = "trace", _READ
        case ["generate" | "generate_stream"]:
            action, methods = "generate", _WRITE
        case _:
            return None
    return Call(action, methods, check_name(name, "endpoint"), version)


def _memory_call(rest: list[str]) -> Call | None:
    match rest:
        case ["status"]:
            return Call("memory_status", _READ)
        case ["region", region, "status"]:
            return Call("memory_status", _READ, region)
        case ["region", region, "register"]:
            return Call("memory_register", _WRITE, region)
        case ["unregister"] | ["region", _, "unregister"]:
            return Call("memory_unregister", _WRITE)
        case _:
            return None
