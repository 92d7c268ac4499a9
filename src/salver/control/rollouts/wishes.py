"""From an endpoint, its rollout and what it was before to the versions that are wanted of it."""

from collections.abc import Callable, Mapping

import msgspec

from salver.control.desired import WAITING, Arm, Desired
from salver.control.rollouts.gates import reference_of
from salver.control.rollouts.judging import WARM_UP, captures
from salver.core import sides
from salver.core.errors import SalverError
from salver.core.names import ModelReference, parse_reference
from salver.core.rollouts import BLUE_GREEN
from salver.core.routing import ARM, CANARY, PREVIOUS, SHADOW
from salver.core.settings import Settings
from salver.core.sides import Side, SideArm
from salver.registry.records import EndpointSpec, PreviousState, VersionRecord
from salver.rollout.columns import Columns, encode_columns
from salver.rollout.machine import PREPARING, Rollout
from salver.rollout.tally import Layout

_TRAFFIC = encode_columns(Columns(Layout(), Layout()))

Resolve = Callable[[ModelReference], VersionRecord]


class Wishes:
    """Makes wishes; ``sizes`` are what versions took in memory."""

    def __init__(self, resolve: Resolve, sizes: Mapping[str, int], settings: Settings) -> None:
        engine = settings.engine
        self._resolve = resolve
        self._sizes = sizes
        self._background = settings.shadow.background
        self._has_budget = bool(engine.memory_budget_bytes or engine.node_memory_budget_bytes)
        self._idle_s = engine.idle_s
        self._timeout_s = settings.http.request_timeout_s

    def of(
        self,
        spec: EndpointSpec,
        rollout: Rollout | None,
        previous: PreviousState | None,
        side: Side | None = None,
    ) -> Desired:
        """Return what is wanted of an endpoint."""
        timeout_s = self._timeout_s if spec.timeout_s is None else spec.timeout_s
        try:
            version = self._resolve(reference_of(spec))
        except SalverError as error:
            return Desired(spec, None, error.message, timeout_s=timeout_s)
        arms: list[Arm | None] = []
        if rollout is not None:
            # Little traffic must not send the primary out of memory before the rollout is over.
            spec = msgspec.structs.replace(spec, pinned=True)
            arm = self._arm(rollout.target, *part_of(rollout))
            # From the start, so that it is loaded once; when it is promoted it answers there until
            # the endpoint's usual workers have it.
            alone = rollout.policy.sample > 0
            arms.append(arm and msgspec.structs.replace(arm, alone=alone))
        elif side is not None:
            arms += [self._side_arm(side, arm) for arm in side.arms]
        if previous is not None and previous.left_s > 0:
            kept = self._arm(str(reference_of(previous.spec)), PREVIOUS, 0, 0)
            # Whoever goes back to it, in an incident perhaps, wants it at its full speed.
            arms = [_in_front(arm) if _same(arm, kept) else arm for arm in arms]
            arms.append(kept)
        others = [arm for arm in arms if arm is not None and arm.version.id != version.id]
        unique = {arm.version.id: arm for arm in reversed(others)}
        return Desired(
            spec,
            version,
            "",
            self._hint(version),
            _salt(rollout, side),
            _columns(rollout, side),
            captures=rollout is not None and captures(rollout.columns),
            arms=tuple(reversed(unique.values())),
            size_bytes=self._sizes.get(version.id, 0),
            idle_s=self._idle(spec, has_arms=bool(unique)),
            floor=side.floor if rollout is None and side is not None else 0,
            timeout_s=timeout_s,
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
        if found is None or side.kind != sides.SHADOW:
            return found
        return msgspec.structs.replace(found, alone=True, background=self._background, replicas=1)

    def _arm(self, reference: str, role: str, weight: int, sample: int) -> Arm | None:
        try:
            version = self._resolve(parse_reference(reference))
        except SalverError:
            return None
        size = self._sizes.get(version.id, 0)
        hint = self._hint(version)
        return Arm(version, role, weight, sample, hint, pinned=True, size_bytes=size)


def _same(arm: Arm | None, other: Arm | None) -> bool:
    return arm is not None and other is not None and arm.version.id == other.version.id


def _in_front(arm: Arm | None) -> Arm | None:
    return arm and msgspec.structs.replace(arm, background=False)


def _columns(rollout: Rollout | None, side: Side | None) -> bytes:
    """Return what gateways count; of an experiment's arms only the requests."""
    if rollout is not None:
        if rollout.step == PREPARING or rollout.policy.strategy == BLUE_GREEN:
            return b""
        # Nobody may have looked yet, and the first requests are the canary's all the same.
        return rollout.columns or encode_columns(WARM_UP)
    return _TRAFFIC if side is not None and side.kind == sides.EXPERIMENT else b""


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
