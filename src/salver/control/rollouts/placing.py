"""Changes of endpoints and aliases, through the gates; what was there before can come back."""

from collections.abc import Collection
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from salver.control.rollouts.earlier import fixed
from salver.control.rollouts.gates import Gates
from salver.control.rollouts.judging import judge_policy, with_labels
from salver.control.rollouts.memory import Kept
from salver.core.errors import ApprovalMissing, RolloutActive, SalverError, SideActive
from salver.core.names import ModelReference
from salver.core.routing import CANARY
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec, VersionRecord
from salver.registry.rollouts import RolloutStore
from salver.registry.state import StateStore

NOBODY = "local"


class Change(NamedTuple):
    """What is written: the wish, and how long what it takes the place of is kept.

    ``before`` is the endpoint as it was and ``kept`` its version; None where nothing is kept.
    """

    wanted: EndpointSpec
    before: EndpointSpec | None = None
    keep_s: float = 0.0
    kept: VersionRecord | None = None


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
        self,
        wanted: EndpointSpec,
        new: VersionRecord,
        serving: Collection[str],
        *,
        force: bool,
        by: str = NOBODY,
    ) -> EndpointSpec:
        """Want an endpoint; raises as ``Deployer.put``."""
        change = self.check(wanted, new, serving, force=force, by=by)
        return self._store.put(change.wanted, change.before, change.keep_s)

    def check(
        self,
        wanted: EndpointSpec,
        new: VersionRecord,
        serving: Collection[str],
        *,
        force: bool = False,
        by: str = NOBODY,
        kept: Kept | None = None,
    ) -> Change:
        """Return what ``put`` would write, or raise as it does.

        ``kept`` is what other changes would keep in memory that are only rehearsed.
        """
        known = self._state.endpoint(wanted.name)
        wanted = with_rules(wanted, known)
        if known is None:
            return Change(wanted)
        self._gates.check_free(wanted.name)
        old = self._current(known)
        if not force:
            check_not_lowered(known, wanted)
            self._gates.check_version(wanted, old, new, kept=kept)
        if old is None or old.id != new.id:
            self._gates.check_approved(known, new, by)
        same = msgspec.structs.replace(wanted, generation=known.generation) == known
        if same or old is None or f"{wanted.name} {old.id}" not in serving:
            return Change(wanted)
        return Change(wanted, fixed(known, old.id), self._keep_s(wanted, old, new, kept), old)

    def remove(self, endpoint: str, *, force: bool = False) -> EndpointSpec:
        """Want an endpoint no more; raises as ``Deployer.remove``."""
        self.check_removal(endpoint, force=force)
        return self._state.delete_endpoint(
            endpoint, lambda connection: self._store.forget_within(connection, endpoint)
        )

    def check_removal(self, endpoint: str, *, force: bool = False) -> None:
        """Raise as ``Deployer.remove`` for an endpoint that is there."""
        self._gates.check_free(endpoint)
        known = self._state.endpoint(endpoint)
        if known is not None and known.approvals and not force:
            raise ApprovalMissing(
                f"endpoint {endpoint!r} demands {known.approvals} approvals, and the next one of "
                f"this name would demand none; remove it with 'salver undeploy {endpoint} "
                f"--force' or 'salver apply --prune --force {endpoint}', which the audit log keeps"
            )

    def move_alias(
        self,
        model: str,
        alias: str,
        version: int,
        serving: Collection[str],
        *,
        force: bool,
        by: str = NOBODY,
    ) -> list[str]:
        """Point an alias to a version; returns and raises as ``Deployer.move_alias``."""
        new = self._catalog.resolve(ModelReference(model, version))
        changes: list[tuple[EndpointSpec, EndpointSpec, float]] = []
        stay: list[str] = []
        for spec in self._followers(model, alias):
            self._gates.check_thawed(spec.name)
            old = self._current(spec)
            if spec.rollout is not None:
                stay += self._staying(spec, old, new, force=force)
                continue
            # An alias that was removed may have meant another version before.
            if old is None or old.id != new.id:
                self._gates.check_free(spec.name)
                self._gates.check_approved(spec, new, by)
            if not force:
                self._gates.check_version(spec, old, new)
            if old is not None and old.id != new.id and f"{spec.name} {old.id}" in serving:
                changes.append((spec, fixed(spec, old.id), self._keep_s(spec, old, new)))

        def first(connection: sa.Connection) -> None:
            self._store.check(connection)
            for change in changes:
                self._store.put_within(connection, *change)

        self._catalog.set_alias(model, alias, version, first)
        return stay

    def delete_alias(self, model: str, alias: str) -> None:
        """Remove an alias; raises as ``Deployer.delete_alias``."""
        for spec in self._followers(model, alias):
            if spec.rollout is None:
                # It has no version any more, and what goes on needs the one that it has.
                self._gates.check_free(spec.name)
            else:
                self._gates.check_thawed(spec.name)
        self._catalog.delete_alias(model, alias, self._store.check)

    def _staying(
        self, spec: EndpointSpec, old: VersionRecord | None, new: VersionRecord, *, force: bool
    ) -> list[str]:
        """Raise if the rollout that follows would be refused; with ``force`` return why.

        What waits for something else to end is asked when that has ended. Nothing forces a rollout
        of which gateways could not count enough.
        """
        try:
            self._gates.check_free(spec.name)
        except (RolloutActive, SideActive):
            return []
        # To the version that it has no rollout begins.
        if old is not None and old.id != new.id and spec.rollout is not None:
            judge_policy(with_labels(spec.rollout, old))
        try:
            self._gates.check_version(spec, old, new, CANARY)
        except SalverError as error:
            if not force:
                raise
            start = f"'salver rollout start {spec.name} --to {new.id} --force'"
            return [f"endpoint {spec.name!r} stays: {error.message} [{error.code}], or {start}"]
        return []

    def _followers(self, model: str, alias: str) -> list[EndpointSpec]:
        return [
            spec for spec in self._state.endpoints() if (spec.model, spec.alias) == (model, alias)
        ]

    def _current(self, spec: EndpointSpec) -> VersionRecord | None:
        try:
            return self._gates.current(spec)
        except SalverError:
            return None

    def _keep_s(
        self, spec: EndpointSpec, old: VersionRecord, new: VersionRecord, kept: Kept | None = None
    ) -> float:
        """Return for how long the old version stays in memory: not at all without room."""
        if not self._gates.fits(spec, old, new, kept):
            return 0.0
        return spec.rollout.keep_previous_s if spec.rollout is not None else self._keep_previous_s


def with_rules(wanted: EndpointSpec, known: EndpointSpec | None) -> EndpointSpec:
    """Keep what an endpoint demands of changes, and who is told, where nothing is said of it."""
    approvals = known.approvals if known is not None else 0
    webhooks = known.webhooks if known is not None else ()
    return msgspec.structs.replace(
        wanted,
        approvals=wanted.approvals if wanted.approvals is not None else approvals,
        webhooks=wanted.webhooks if wanted.webhooks is not None else webhooks,
    )


def check_not_lowered(known: EndpointSpec, wanted: EndpointSpec) -> None:
    """Raise ``ApprovalMissing`` for a change that demands fewer approvals than before."""
    before, after = known.approvals or 0, wanted.approvals or 0
    if after < before:
        raise ApprovalMissing(
            f"endpoint {known.name!r} demands {before} approvals and would demand {after}; lower "
            f"that with 'salver deploy --approvals {after} --force', which the audit log keeps"
        )
