"""The paths under `/v1/models`."""

from salver.core.errors import RouteNotFound, UnsupportedOperation
from salver.core.names import check_name
from salver.gateway.oip.reading import V1, Route, Target

_OTHER_VERBS = ("classify", "explain", "regress")


def parse_v1(rest: list[str], path: str) -> Route:
    """Return the route of what follows ``/v1/models``; ``path`` is for the message.

    Raises ``RouteNotFound``, ``InvalidName``, or ``UnsupportedOperation`` for what these protocols
    know and Salver does not.
    """
    if not rest:
        return Route("v1_list")
    last, colon, verb = rest[-1].partition(":")
    names = [*rest[:-1], last]
    action = "v1_status" if not colon else _action(verb, path)
    if not colon and len(names) > 1 and last == "metadata":
        action = "v1_metadata"
        names.pop()
    match names:
        case [name]:
            return Route(action, Target(check_name(name, "endpoint"), None), V1)
        case [name, "versions", version]:
            return Route(action, Target(check_name(name, "endpoint"), version), V1)
        case [_, "labels", *_]:
            raise UnsupportedOperation("versions have no labels here; ask /versions/NUMBER")
        case _:
            raise RouteNotFound(f"no such path: {path[:200]}")


def _action(verb: str, path: str) -> str:
    if verb == "predict":
        return "infer"
    if verb in _OTHER_VERBS:
        raise UnsupportedOperation(f"':{verb}' is not answered; ask ':predict'")
    raise RouteNotFound(f"no such path: {path[:200]}")
