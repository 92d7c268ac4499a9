"""Who approves of a version, and whether that is enough. Pure.

People are told apart by the names that they give; capitals and spaces around do not make another.
Whoever wants the change may be among those who approve, and never the only one.
"""

from collections.abc import Sequence

from salver.core.errors import Conflict

_MAX_PEOPLE = 64


def enough(needed: int, people: Sequence[str], wanted_by: str) -> bool:
    """Tell whether so many different people approve, one of whom is not who wants it."""
    names = {_person(each) for each in people}
    return not needed or (len(names) >= needed and bool(names - {_person(wanted_by)}))


def added(needed: int, people: Sequence[str], person: str) -> tuple[str, ...]:
    """Return who approves with one more; raises ``Conflict`` for whom that would add nothing."""
    if not needed:
        raise Conflict("the endpoint demands no approvals; 'salver deploy --approvals N' does")
    if _person(person) in {_person(each) for each in people}:
        raise Conflict(f"{person} has approved of it already; each person counts once")
    if len(people) >= _MAX_PEOPLE:
        raise Conflict(f"{_MAX_PEOPLE} people have approved of it, which is enough")
    return (*people, person)


def missing(endpoint: str, needed: int, people: Sequence[str], wanted_by: str) -> str:
    """Say what is missing, and who may help."""
    have = len({_person(each) for each in people})
    who = f"{have} of {needed} approvals" if have < needed else f"nobody but {wanted_by} approves"
    return (
        f"{who}; somebody else than {wanted_by} approves with 'salver rollout approve {endpoint}'"
    )


def _person(name: str) -> str:
    return name.strip().casefold()
