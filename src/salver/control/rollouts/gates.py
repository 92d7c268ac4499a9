"""What must hold before an endpoint gets another version. Its golden examples are asked later."""

from collections.abc import Sequence

from salver.control.rollouts.memory import Kept, Memory
from salver.core.errors import (
    ApprovalMissing,
    EndpointFrozen,
    InvalidRequest,
    MemoryBudgetExceeded,
    RolloutActive,
    SideActive,
    SignatureChanged,
    VersionRolledBack,
)
from salver.core.names import ModelReference
from salver.core.routing import PREVIOUS
from salver.registry.approvals import ApprovalStore
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec, VersionRecord
from salver.registry.rollouts import RolloutStore
from salver.registry.sides import SideStore
from salver.rollout.approvals import enough, missing
from salver.rollout.compatibility import differences

_MAX_DIFFERENCES = 3


class Gates:
    """Reads the registry; called from the database's thread."""

    def __init__(
        self,
        catalog: Catalog,
        store: RolloutStore,
        sides: SideStore,
        approvals: ApprovalStore,
        memory: Memory,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._sides = sides
        self.approvals = approvals
        self._memory = memory

    def check_free(self, endpoint: str) -> None:
        """Raise for an endpoint that may not be changed now.

        Raises ``EndpointFrozen``, ``RolloutActive`` or ``SideActive``.
        """
        self.check_thawed(endpoint)
        for record in self._store.active():
            if record.endpoint == endpoint:
                raise RolloutActive(
                    f"rollout {record.number} of {endpoint!r} has not ended; see 'salver rollout "
                    f"status {endpoint}', or end it with 'salver rollout abort {endpoint}'"
                )
        side = self._sides.active().get(endpoint)
        if side is not None:
            raise SideActive(
                f"{side.kind} {side.number} of endpoint {endpoint!r} goes on; end it with 'salver "
                f"{side.kind} stop {endpoint}'"
            )

    def check_thawed(self, endpoint: str) -> None:
        """Raise ``EndpointFrozen``."""
        check_thawed(self._store, endpoint)

    def check_approved(self, spec: EndpointSpec, new: VersionRecord, wanted_by: str) -> None:
        """Raise ``ApprovalMissing`` for a version of which too few people approve; not forced."""
        needed = spec.approvals or 0
        people = [each.person for each in self.approvals.of(spec.name, new)] if needed else []
        if not enough(needed, people, wanted_by):
            raise ApprovalMissing(
                f"{new.id} has " + missing(spec.name, needed, people, wanted_by) + " --to VERSION"
            )

    def check_version(
        self,
        spec: EndpointSpec,
        old: VersionRecord | None,
        new: VersionRecord,
        role: str = PREVIOUS,
        company: Sequence[VersionRecord] = (),
        *,
        kept: Kept | None = None,
    ) -> None:
        """Raise for a version that should not take the place of another; all of it can be forced.

        ``role`` is who needs room besides: with *previous* the old version, which stays for a
        while in place of what the endpoint had before; else the new one's beside the old, *canary*,
        *arm* with its ``company`` of other arms, or *shadow*. ``kept`` is how changes that are only
        rehearsed leave other endpoints.

        Raises ``VersionRolledBack``, ``SignatureChanged`` or ``MemoryBudgetExceeded``.
        """
        if old is not None and old.id == new.id:
            return
        mark = self._store.mark_of(new.model, new.version)
        if mark:
            raise VersionRolledBack(
                f"{new.id} was rolled back {mark}; use it all the same with --force"
            )
        if old is None:
            return
        found = differences(old.manifest.signature, new.manifest.signature)
        if found:
            more = len(found) - _MAX_DIFFERENCES
            raise SignatureChanged(
                f"callers of {old.id} would notice {new.id}: "
                + "; ".join(found[:_MAX_DIFFERENCES])
                + (f"; and {more} more" if more > 0 else "")
                + "; change it all the same with --force"
            )
        self._memory.check(spec, old, (new, *company), role, kept)

    def current(self, spec: EndpointSpec) -> VersionRecord:
        """Return the version that an endpoint means now; raises as ``Catalog.resolve``."""
        return self._catalog.resolve(reference_of(spec))

    def fits(
        self,
        spec: EndpointSpec,
        old: VersionRecord,
        new: VersionRecord,
        kept: Kept | None = None,
    ) -> bool:
        """Tell whether both versions have room in memory."""
        try:
            self._memory.check(spec, old, (new,), PREVIOUS, kept)
        except MemoryBudgetExceeded:
            return False
        return True


def check_thawed(store: RolloutStore, endpoint: str) -> None:
    """Raise ``EndpointFrozen``; called from the database's thread."""
    frozen = store.frozen().get(endpoint)
    if frozen is not None:
        raise EndpointFrozen(
            f"endpoint {endpoint!r} is frozen by {frozen.actor}: {frozen.reason or 'no reason'}"
            f"; 'salver unfreeze {endpoint}' ends that"
        )


def check_model(model: str, spec: EndpointSpec) -> None:
    """Raise ``InvalidRequest`` for another model: ids of answers tell versions apart by number."""
    if model != spec.model:
        raise InvalidRequest(
            f"endpoint {spec.name!r} serves {spec.model!r}, and {model!r} is another model; "
            "compare versions of one model, or deploy the other"
        )


def reference_of(spec: EndpointSpec) -> ModelReference:
    """Return what an endpoint means; with a rollout policy an alias only says what comes next."""
    if spec.rollout is not None and spec.version is not None:
        return ModelReference(spec.model, spec.version)
    return ModelReference(spec.model, spec.version, spec.alias)
