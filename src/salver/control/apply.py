"""Makes endpoints what files say: what differs, and the way there."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from salver.control.deploy import Deployer
from salver.core.names import parse_reference
from salver.registry.records import EndpointSpec

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
    """An endpoint as a file says it: the wish, its model's name, and the whole document."""

    spec: EndpointSpec
    model: str
    document: Mapping[str, Any]


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


def _differs(field: str, before: object, after: object) -> bool:
    if field == "model" and isinstance(before, str) and isinstance(after, str):
        asked = parse_reference(after)
        if asked.version is None and asked.alias is None:
            # A bare name pins the newest version when it is applied, and is content afterwards.
            return parse_reference(before).name != asked.name
    return before != after


class Applier:
    """Carries changes out, one after the other; each is whole by itself."""

    def __init__(self, deployer: Deployer) -> None:
        self._deployer = deployer

    async def __call__(
        self, wanted: Sequence[Wanted], todo: Sequence[EndpointChange], wait_s: float | None
    ) -> None:
        """Change what has to change, then wait until all of it answers.

        Raises what ``Deployer`` raises; what was changed before stays so.
        """
        by_name = {item.spec.name: item for item in wanted}
        specs: list[EndpointSpec] = []
        for change in todo:
            if change.action == REMOVE:
                await self._deployer.remove(change.name)
            elif change.action in (CREATE, CHANGE):
                item = by_name[change.name]
                spec = msgspec.structs.replace(item.spec, managed=True)
                specs.append(await self._deployer.put(spec, item.model))
        if wait_s is not None:
            for spec in specs:
                await self._deployer.wait(spec, wait_s)
