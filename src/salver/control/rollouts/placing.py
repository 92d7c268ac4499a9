"""Changes of endpoints and aliases, through the gates; what was there before can come back."""

from collections.abc import Collection

import msgspec
import sqlalchemy as sa

from salver.control.rollouts.earlier import fixed
from salver.control.rollouts.gates import Gates
from salver.core.errors import SalverError
from salver.core.names import ModelReference
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec, VersionRecord
from salver.registry.rollouts import RolloutStore
from salver.registry.state import StateStore


class Placing:
    """Called from the database's thread, so that checks and writes of one change stay together.

    All writes of one change are one transaction, which a control on standby is refused.

    ``serving`` names what answers at the moment, as ``ENDPOINT MODEL:VERSION``: only that is
    worth going back to.
    """

    def __init__(
        self,
        catalog: Catalog,
        state: StateStore,
        store: RolloutStore,
        gates: Gates,
        keep_previous_s: float,
    ) -> None:
        self._catalog = catalog
        self._state = state
        self._store = store
        self._gates = gates
        self._keep_previous_s = keep_previous_s

    def put(
        self, wanted: EndpointSpec, new: VersionRecord, serving: Collection[str], *, force: bool
    ) -> EndpointSpec:
        """Want an endpoint; raises as ``Deployer.put``."""
        known = self._state.endpoint(wanted.name)
        if known is None:
            return self._store.put(wanted, None, 0.0)
        self._gates.check_free(wanted.name)
        old = self._current(known)
        if not force:
            self._gates.check_version(wanted, old, new)
        same = msgspec.structs.replace(wanted, generation=known.generation) == known
        if same or old is None or f"{wanted.name} {old.id}" not in serving:
            return self._store.put(wanted, None, 0.0)
        return self._store.put(wanted, fixed(known, old.id), self._keep_s(wanted, old, new))

    def remove(self, endpoint: str) -> EndpointSpec:
        """Want an endpoint no more; raises as ``Deployer.remove``."""
        self._gates.check_free(endpoint)
        return self._state.delete_endpoint(
            endpoint, lambda connection: self._store.forget_within(connection, endpoint)
        )

    def move_alias(
        self, model: str, alias: str, version: int, serving: Collection[str], *, force: bool
    ) -> None:
        """Point an alias to a version; raises as ``Deployer.move_alias``."""
        new = self._catalog.resolve(ModelReference(model, version))
        changes: list[tuple[EndpointSpec, EndpointSpec, float]] = []
        for spec in self._followers(model, alias):
            self._gates.check_thawed(spec.name)
            old = self._current(spec)
            if spec.rollout is not None or old is None:
                continue
            if old.id != new.id:
                self._gates.check_free(spec.name)
            if not force:
                self._gates.check_version(spec, old, new)
            if old.id != new.id and f"{spec.name} {old.id}" in serving:
                changes.append((spec, fixed(spec, old.id), self._keep_s(spec, old, new)))

        def first(connection: sa.Connection) -> None:
            self._store.check(connection)
            for change in changes:
                self._store.put_within(connection, *change)

        self._catalog.set_alias(model, alias, version, first)

    def delete_alias(self, model: str, alias: str) -> None:
        """Remove an alias; raises as ``Deployer.delete_alias``."""
        for spec in self._followers(model, alias):
            self._gates.check_thawed(spec.name)
        self._catalog.delete_alias(model, alias, self._store.check)

    def _followers(self, model: str, alias: str) -> list[EndpointSpec]:
        return [
            spec for spec in self._state.endpoints() if (spec.model, spec.alias) == (model, alias)
        ]

    def _current(self, spec: EndpointSpec) -> VersionRecord | None:
        try:
            return self._gates.current(spec)
        except SalverError:
            return None

    def _keep_s(self, spec: EndpointSpec, old: VersionRecord, new: VersionRecord) -> float:
        """Return for how long the old version stays in memory: not at all without room."""
        if not self._gates.fits(spec, old, new):
            return 0.0
        return spec.rollout.keep_previous_s if spec.rollout is not None else self._keep_previous_s
