"""From an endpoint, its rollout and what it was before to the versions that are wanted of it."""

from collections.abc import Callable, Mapping

import msgspec

from salver.control.desired import WAITING, Arm, Desired
from salver.control.rollouts.gates import reference_of
from salver.control.rollouts.judging import captures
from salver.core import sides
from salver.core.errors import SalverError
from salver.core.names import ModelReference, parse_reference
from salver.core.rollouts import BLUE_GREEN
from salver.core.routing import ARM, CANARY, PREVIOUS, SHADOW
from salver.core.settings import EngineSettings
from salver.core.sides import Side, SideArm
from salver.registry.records import EndpointSpec, PreviousState, VersionRecord
from salver.rollout.machine import PREPARING, Rollout

Resolve = Callable[[ModelReference], VersionRecord]


class Wishes:
    """Makes wishes; ``sizes`` are what versions took in memory."""

    def __init__(self, resolve: Resolve, sizes: Mapping[str, int], engine: EngineSettings) -> None:
        self._resolve = resolve
        self._sizes = sizes
        self._has_budget = bool(engine.memory_budget_bytes or engine.node_memory_budget_bytes)
        self._idle_s = engine.idle_s

    def of(
        self,
        spec: EndpointSpec,
        rollout: Rollout | None,
        previous: PreviousState | None,
        side: Side | None = None,
    ) -> Desired:
        """Return what is wanted of an endpoint."""
        try:
            version = self._resolve(reference_of(spec))
        except SalverError as error:
            return Desired(spec, None, error.message)
        arms = []
        if rollout is not None:
            # Little traffic must not send the primary out of memory before the rollout is over.
            spec = msgspec.structs.replace(spec, pinned=True)
            arms.append(self._arm(rollout.target, *part_of(rollout)))
        elif side is not None:
            arms += [self._side_arm(side, arm) for arm in side.arms]
        if previous is not None and previous.left_s > 0:
            arms.append(self._arm(str(reference_of(previous.spec)), PREVIOUS, 0, 0))
        kept = [arm for arm in arms if arm is not None and arm.version.id != version.id]
        unique = {arm.version.id: arm for arm in reversed(kept)}
        return Desired(
            spec,
            version,
            "",
            self._hint(version),
            _salt(rollout, side),
            rollout.columns if rollout is not None and rollout.step > PREPARING else b"",
            captures=rollout is not None and captures(rollout.columns),
            arms=tuple(reversed(unique.values())),
            size_bytes=self._sizes.get(version.id, 0),
            idle_s=self._idle(spec, has_arms=bool(unique)),
        )

    def _hint(self, version: VersionRecord) -> int:
        return self._sizes.get(version.id, 0) if self._has_budget else 0

    def _idle(self, spec: EndpointSpec, *, has_arms: bool) -> float:
        """Return when it leaves if nobody asks; while versions are compared none does."""
        if spec.min_replicas != 0 or has_arms:
            return 0.0
        return self._idle_s if spec.idle_s is None else spec.idle_s

    def _side_arm(self, side: Side, arm: SideArm) -> Arm | None:
        role = SHADOW if side.kind == sides.SHADOW else ARM
        found = self._arm(arm.version, role, arm.weight, arm.sample)
        alone = side.kind == sides.SHADOW
        return found and msgspec.structs.replace(found, alone=alone)

    def _arm(self, reference: str, role: str, weight: int, sample: int) -> Arm | None:
        try:
            version = self._resolve(parse_reference(reference))
        except SalverError:
            return None
        size = self._sizes.get(version.id, 0)
        hint = self._hint(version)
        return Arm(version, role, weight, sample, hint, pinned=True, size_bytes=size)


def _salt(rollout: Rollout | None, side: Side | None) -> str:
    if rollout is not None:
        return rollout.salt
    return side.salt if side is not None else ""


def part_of(rollout: Rollout) -> tuple[str, int, int]:
    """Return role, weight and sample of a rollout's new version, in basis points."""
    if rollout.step == PREPARING:
        return WAITING, 0, 0
    if rollout.policy.strategy == BLUE_GREEN:
        return SHADOW, 0, rollout.policy.sample
    return CANARY, rollout.weight, 0
