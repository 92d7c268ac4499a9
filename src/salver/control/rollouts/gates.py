"""What must hold before an endpoint gets another version. Its golden examples are asked later."""

from salver.core.errors import (
    EndpointFrozen,
    InvalidRequest,
    MemoryBudgetExceeded,
    RolloutActive,
    SideActive,
    SignatureChanged,
    VersionRolledBack,
)
from salver.core.names import ModelReference
from salver.core.settings import EngineSettings
from salver.registry.catalog import Catalog
from salver.registry.records import EndpointSpec, VersionRecord
from salver.registry.rollouts import RolloutStore
from salver.registry.sides import SideStore
from salver.rollout.compatibility import differences

_MAX_DIFFERENCES = 3


class Gates:
    """Reads the registry; called from the database's thread."""

    def __init__(
        self, catalog: Catalog, store: RolloutStore, sides: SideStore, engine: EngineSettings
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._sides = sides
        self._engine = engine

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
        frozen = self._store.frozen().get(endpoint)
        if frozen is not None:
            raise EndpointFrozen(
                f"endpoint {endpoint!r} is frozen by {frozen.actor}: {frozen.reason or 'no reason'}"
                f"; 'salver unfreeze {endpoint}' ends that"
            )

    def check_version(
        self,
        spec: EndpointSpec,
        old: VersionRecord | None,
        new: VersionRecord,
        *,
        beside: bool = False,
    ) -> None:
        """Raise for a version that should not take the place of another; all of it can be forced.

        With ``beside`` both answer for a while, and the version that the endpoint had before
        stays in memory meanwhile; else ``old`` takes its place.

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
        self._check_memory(spec, old, new, beside=beside)

    def current(self, spec: EndpointSpec) -> VersionRecord:
        """Return the version that an endpoint means now; raises as ``Catalog.resolve``."""
        return self._catalog.resolve(reference_of(spec))

    def fits(self, spec: EndpointSpec, old: VersionRecord, new: VersionRecord) -> bool:
        """Tell whether both versions have room in memory."""
        try:
            self._check_memory(spec, old, new, beside=False)
        except MemoryBudgetExceeded:
            return False
        return True

    def _check_memory(
        self, spec: EndpointSpec, old: VersionRecord, new: VersionRecord, *, beside: bool
    ) -> None:
        """Both versions and all that is pinned must fit into a worker's budget together."""
        budget = self._engine.memory_budget_bytes or self._engine.node_memory_budget_bytes
        if not budget:
            return
        sizes = self._catalog.sizes()
        needed = {item.id: _size(item, sizes) for item in (old, new)}
        for other, state in self._store.previous().items():
            if state.left_s > 0 and (beside or other != spec.name):
                kept = self.current(state.spec)
                needed[kept.id] = _size(kept, sizes)
        total = sum(needed.values())
        if total > budget:
            raise MemoryBudgetExceeded(
                f"{old.id}, {new.id} and what else must stay in memory take {total} bytes, the "
                f"budget is {budget}; raise engine.memory_budget_bytes, or try with --force"
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


def _size(version: VersionRecord, sizes: dict[str, int]) -> int:
    return sizes.get(version.id) or version.manifest.resident_bytes
