"""Makes endpoints what files say: what differs, what stands against it, and the way there."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from salver.control.admission import Refusal, Step
from salver.control.deploy import Deployer
from salver.core.errors import InvalidRequest, SalverError, from_code
from salver.core.names import parse_reference
from salver.registry.records import EndpointSpec

_MAX_PROBLEMS = 10
CREATE, CHANGE, UNCHANGED, REMOVE = "create", "change", "unchanged", "remove"


class FieldChange(msgspec.Struct, frozen=True):
    """A field that is to be another."""

    field: str
    before: Any
    after: Any


class EndpointChange(msgspec.Struct, frozen=True):
    """What is to be done about one endpoint."""

    name: str
    action: str
    fields: tuple[FieldChange, ...] = ()


class Wanted(msgspec.Struct, frozen=True):
    """An endpoint as a file says it: the wish, its model's name, the whole document, the file."""

    spec: EndpointSpec
    model: str
    document: Mapping[str, Any]
    source: str = ""


class Problem(NamedTuple):
    """Something that is wrong, in words that name file and key, and its code."""

    text: str
    code: str = InvalidRequest.code


def error_of(problems: Sequence[Problem]) -> SalverError | None:
    """Return one error that tells them, if there are any; its code is that of the first."""
    if not problems:
        return None
    told = list(dict.fromkeys(problem.text for problem in problems))
    more = len(told) - _MAX_PROBLEMS
    shown = told[:_MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
    return from_code(problems[0].code, "; ".join(shown))


def changes(
    wanted: Sequence[Wanted],
    present: Mapping[str, Mapping[str, Any]],
    managed: Sequence[str],
    *,
    prune: bool,
) -> list[EndpointChange]:
    """Return what has to be done, by name.

    ``present`` are the documents of all endpoints, ``managed`` the names of those that were made
    from files: with ``prune`` they go when no file names them.
    """
    found: list[EndpointChange] = []
    for item in wanted:
        before = present.get(item.spec.name)
        if before is None:
            found.append(EndpointChange(item.spec.name, CREATE))
            continue
        fields = tuple(
            FieldChange(field, before.get(field), value)
            for field, value in item.document.items()
            if _differs(field, before.get(field), value)
        )
        is_adopted = not fields and item.spec.name not in managed
        action = CHANGE if fields or is_adopted else UNCHANGED
        if is_adopted:
            fields = (FieldChange("kept in files", before=False, after=True),)
        found.append(EndpointChange(item.spec.name, action, fields))
    if prune:
        names = {item.spec.name for item in wanted}
        found += [EndpointChange(name, REMOVE) for name in managed if name not in names]
    return sorted(found, key=lambda change: change.name)


def settled(wanted: Sequence[Wanted], present: Mapping[str, Mapping[str, Any]]) -> list[Wanted]:
    """Return what is wanted, with the versions of those whose bare names are content already.

    Else whatever else changes of them would bring the newest version, which no difference shows.
    """

    def of(item: Wanted) -> Wanted:
        before = present.get(item.spec.name, {}).get("model")
        if before is None or _differs("model", before, item.model):
            return item
        return msgspec.structs.replace(item, model=before)

    return [of(item) for item in wanted]


def _differs(field: str, before: object, after: object) -> bool:
    if field == "model" and isinstance(before, str) and isinstance(after, str):
        asked, known = parse_reference(after), parse_reference(before)
        if asked.version is None and asked.alias is None:
            # A bare name pins the newest version when it is applied, and is content afterwards,
            # but not with an alias, which moves.
            return known.name != asked.name or known.alias is not None
    return before != after


class Record(Protocol):
    """Appends to the audit log."""

    async def __call__(self, action: str, subject: str, by: str, **details: str) -> None:
        """Write down who did what to which endpoint."""
        ...


class Applier:
    """Carries changes out, one after the other; each is whole by itself, and written down."""

    def __init__(self, deployer: Deployer, record: Record) -> None:
        self._deployer = deployer
        self._record = record

    async def problems(
        self,
        wanted: Sequence[Wanted],
        todo: Sequence[EndpointChange],
        by: str,
        forced: Collection[str] = (),
    ) -> list[Problem]:
        """Return all that doing this would be refused for; nothing is changed."""
        by_name = {item.spec.name: item for item in wanted}
        steps = [
            _step(change, by_name, force=change.name in forced)
            for change in todo
            if change.action != UNCHANGED
        ]
        specs = [item.spec for item in wanted]
        refusals = await self._deployer.refusals(specs, steps, by)
        return [_problem(refusal, by_name.get(refusal.name)) for refusal in refusals]

    async def __call__(
        self,
        wanted: Sequence[Wanted],
        todo: Sequence[EndpointChange],
        wait_s: float | None,
        by: str,
        forced: Collection[str] = (),
    ) -> None:
        """Change what has to change, then wait until all of it answers. ``by`` is who wants it.

        Endpoints named in ``forced`` change and go as a forced deploy or undeploy would do it.

        To be called for what ``problems`` has nothing against. Raises what ``Deployer`` raises for
        what came in between; what was changed before stays so.
        """
        by_name = {item.spec.name: item for item in wanted}
        specs: list[EndpointSpec] = []
        for change in todo:
            name, force = change.name, change.name in forced
            if change.action == UNCHANGED:
                continue
            if change.action == REMOVE:
                await self._deployer.remove(name, force=force)
            else:
                item = by_name[name]
                spec = msgspec.structs.replace(item.spec, managed=True)
                specs.append(await self._deployer.put(spec, item.model, force=force, by=by))
            details = {"forced": "true"} if force else {}
            await self._record("apply", name, by, change=change.action, **details)
        if wait_s is not None:
            for spec in specs:
                await self._deployer.wait(spec, wait_s)


def _step(change: EndpointChange, by_name: Mapping[str, Wanted], *, force: bool) -> Step:
    if change.action == REMOVE:
        return Step(change.name, force=force)
    item = by_name[change.name]
    spec = msgspec.structs.replace(item.spec, managed=True)
    return Step(change.name, spec, item.model, force)


def _problem(refusal: Refusal, item: Wanted | None) -> Problem:
    where = [part for part in (item.source if item else "", refusal.key) if part]
    return Problem(": ".join((*where, refusal.error.message)), refusal.error.code)
