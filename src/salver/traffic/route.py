"""The variants of one endpoint, ready for picking."""

from bisect import bisect_right
from itertools import accumulate
from typing import Final

from salver.core.cohort import Cohort
from salver.core.context import RequestContext
from salver.core.errors import NotReady, VersionNotFound
from salver.core.ids import RequestIds
from salver.core.request import InferenceRequest
from salver.core.routing import FULL, INPUT, PREVIOUS, ring
from salver.core.seals import ArmSeal
from salver.traffic.keys import where_of
from salver.traffic.rules import Rules
from salver.wire.messages import EndpointPlan, VariantPlan

_RETRY_AFTER_S: Final = 1.0


class Arm:
    """What a request takes with it from the variant that answers it.

    ``epoch`` is 0 where chance did not decide; ``ids`` is None where which one answered need not
    be known afterwards.
    """

    __slots__ = (
        "_captured",
        "_endpoint",
        "_epoch",
        "_id",
        "_idempotent",
        "_ids",
        "_seal",
        "_version",
        "variant",
    )

    def __init__(
        self, endpoint: EndpointPlan, variant: VariantPlan, epoch: int, ids: RequestIds | None
    ) -> None:
        self.variant = variant
        self._endpoint = endpoint.name
        self._id = variant.id
        self._version = variant.version
        self._idempotent = variant.idempotent
        self._epoch = epoch
        self._captured = endpoint.captures and epoch > 0
        self._ids = ids
        self._seal: ArmSeal | None = None

    def enter(self, context: RequestContext, point: int) -> None:
        """Note the arm in a request's context and id, with the point that decided, or -1."""
        context.variant = self._id
        context.version = self._version
        context.weight_epoch = self._epoch
        context.idempotent = self._idempotent
        context.captured = self._captured
        if self._ids is not None and context.request_id:
            seal = self._seal
            if seal is None:
                seal = self._sealing(self._ids)
            context.request_id = seal(context.request_id, point)

    def enter_all(self, cohort: Cohort, points: list[int]) -> Cohort:
        """Note the arm for all members of a cohort."""
        self.enter(cohort.context, -1)
        if self._ids is not None:
            seal = self._seal or self._sealing(self._ids)
            cohort.request_ids[:] = seal.all(cohort.request_ids, points)
            cohort.audience.seated(cohort)
        return cohort

    def _sealing(self, ids: RequestIds) -> ArmSeal:
        version = int(self._version) if self._version.isdigit() else 0
        seal = self._seal = ids.arm(self._endpoint, version, self._epoch)
        return seal


class Route:
    """The answering variants of one endpoint.

    ``only`` is the arm of all requests that name no version, where there is just one variant.
    """

    __slots__ = (
        "_arms",
        "_by_version",
        "_has_arms",
        "_ids",
        "_picked",
        "_rules",
        "_thresholds",
        "endpoint",
        "is_keyed",
        "is_keyed_by_input",
        "is_ready",
        "only",
        "where",
    )

    def __init__(self, endpoint: EndpointPlan, ids: RequestIds | None) -> None:
        self.endpoint = endpoint
        # One that is only kept to go back to makes no difference to anybody.
        self._has_arms = sum(v.role != PREVIOUS for v in endpoint.variants) > 1
        self._ids = ids if self._has_arms else None
        parts = ring([v.weight for v in endpoint.variants], endpoint.floor)
        weighted = [endpoint.variants[index] for index, _ in parts]
        self._arms = [Arm(endpoint, v, v.weight_epoch, self._ids) for v in weighted]
        self._thresholds = list(accumulate(length for _, length in parts))
        self.is_ready = bool(weighted)
        # Versions of two models may have one number: the primary one is meant then.
        self._by_version = {v.version: v for v in reversed(endpoint.answering)}
        self._picked: dict[str, Arm] = {}
        rules = Rules(endpoint)
        self._rules = rules or None
        primary = endpoint.variants[0].signature if endpoint.variants else None
        self.where = where_of(endpoint.routing.source, primary)
        self.is_keyed = bool(self.where[0])
        self.is_keyed_by_input = self.where[0] == INPUT
        is_alone = len(weighted) == 1 and not rules and not self._has_arms
        self.only = self._arms[0] if is_alone else None

    def picked(self, request: InferenceRequest, context: RequestContext) -> Arm | None:
        """Return the arm that was asked for or that a rule names; raises ``VersionNotFound``."""
        version = request.version
        if version is not None:
            variant = self._by_version.get(version)
            if variant is None:
                raise self._unknown(version)
        elif self._rules is None:
            return None
        else:
            found = self._rules.pick(request, context)
            if found is None:
                return None
            variant = found
        arm = self._picked.get(variant.id)
        if arm is None:
            epoch = 0 if self._has_arms else variant.weight_epoch
            arm = self._picked[variant.id] = Arm(self.endpoint, variant, epoch, self._ids)
        return arm

    def _unknown(self, version: str) -> VersionNotFound:
        known = ", ".join(sorted(self._by_version)) or "none"
        return VersionNotFound(
            f"endpoint {self.endpoint.name!r} does not serve version {version!r}; it serves {known}"
        )

    def at(self, point: int) -> Arm:
        """Return the arm at a point of ``[0, 10000)``; raises ``NotReady``."""
        if not self.is_ready:
            reason = self.endpoint.reason or "its model is still loading"
            raise NotReady(
                f"endpoint {self.endpoint.name!r} is not ready: {reason}",
                retry_after_s=_RETRY_AFTER_S,
            )
        total = self._thresholds[-1]
        if total != FULL:
            point = point * total // FULL
        return self._arms[bisect_right(self._thresholds, point)]

    def dealt(self, points: list[int]) -> dict[Arm, list[int]]:
        """Return which of several points are at which arm; ``is_ready`` has to hold."""
        arms, thresholds = self._arms, self._thresholds
        total = thresholds[-1]
        places = points if total == FULL else [point * total // FULL for point in points]
        found: dict[Arm, list[int]] = {}
        for index, place in enumerate(places):
            arm = arms[bisect_right(thresholds, place)]
            if arm in found:
                found[arm].append(index)
            else:
                found[arm] = [index]
        return found
