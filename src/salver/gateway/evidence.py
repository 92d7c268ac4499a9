"""Counts, for rollouts, what became of the requests that chance gave to their arms.

A subscriber of the ring of exchanges, so that nothing of it is on the request path. What is counted
is in the plan, and is told to control with every report.
"""

import random
from collections.abc import Iterator, Sequence

import msgspec

from salver.core.clock import Clock
from salver.core.errors import ERRORS_BY_CODE, CallerError
from salver.core.exchange import Exchange, JointExchange, Record
from salver.core.routing import ARM, ring
from salver.core.tensor import Tensor
from salver.observe.logs import get_logger
from salver.rollout.columns import Columns
from salver.rollout.predictions import Predictions
from salver.rollout.tally import POINTS, Tally, pack, segment_of
from salver.wire.messages import EndpointPlan, Evidence, Plan, VariantPlan

log = get_logger(__name__)

# Requests of an epoch that has ended may still be open for as long as they may take.
_KEPT_S = 600.0
_MAX_EPOCHS = 64
_ALL_EVERY = 30
_NANOSECOND = 1e-9
_GAVE_UP = "cancelled"
# Whoever has a weight epoch was routed, so these say who asked, and not what or of whom.
_OF_THE_CALLER = frozenset(("unauthenticated", "forbidden", "quota_exceeded"))
# What was found wrong after routing, by the variant's signature, ranges, steps or code.
_REFUSALS = frozenset(
    code for code, error in ERRORS_BY_CODE.items() if issubclass(error, CallerError)
) - {_GAVE_UP, *_OF_THE_CALLER}

Key = tuple[str, str, int]


class _Arm:
    """The counts of one variant in one epoch."""

    __slots__ = (
        "changed",
        "endpoint",
        "epoch",
        "name",
        "number",
        "points",
        "predictions",
        "tally",
    )

    def __init__(self, endpoint: str, variant: VariantPlan, columns: Columns) -> None:
        layout = columns.of(variant.role)
        self.endpoint = endpoint
        self.name = variant.id if variant.role == ARM else variant.role
        self.epoch = variant.weight_epoch
        self.points: list[range] = []
        self.tally = Tally(layout)
        self.predictions = Predictions(variant.signature, layout)
        self.number = 0
        self.changed = False

    def message(self) -> Evidence:
        """Return what was counted so far."""
        self.number += 1
        self.changed = False
        packed = pack(self.tally.table())
        return Evidence(
            self.endpoint,
            self.epoch,
            self.name,
            self.number,
            packed.width,
            packed.rows,
            packed.bins,
        )


class EvidenceCounter:
    """Counts by endpoint, variant and weight epoch, as plans ask for it."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._arms: dict[Key, _Arm] = {}
        self._calls = 0
        self._ended_ns: dict[Key, int] = {}

    def apply(self, plan: Plan) -> None:
        """Count what this plan asks for from now on; what ended is kept for a while."""
        now_ns = self._clock.monotonic_ns()
        wanted: set[Key] = set()
        for endpoint in plan.endpoints:
            if endpoint.evidence:
                wanted |= self._begin(endpoint)
        for key in list(self._arms):
            if key in wanted:
                self._ended_ns.pop(key, None)
            elif now_ns - self._ended_ns.setdefault(key, now_ns) > _KEPT_S * 1e9:
                del self._arms[key], self._ended_ns[key]
        for key in sorted(self._ended_ns, key=self._ended_ns.__getitem__)[:-_MAX_EPOCHS]:
            del self._arms[key], self._ended_ns[key]

    def __call__(self, records: list[Record]) -> None:
        """Count a batch of exchanges."""
        arms = self._arms
        if not arms:
            return
        for record in records:
            context = record.context
            if context.weight_epoch:
                arm = arms.get((record.endpoint, context.variant, context.weight_epoch))
                if arm is not None:
                    self._count(arm, record)

    def messages(self) -> Sequence[Evidence]:
        """Return what is new since the last call; now and then all, should some have been lost."""
        self._calls += 1
        wants_all = self._calls % _ALL_EVERY == 0
        return [arm.message() for arm in self._arms.values() if wants_all or arm.changed]

    def _begin(self, endpoint: EndpointPlan) -> set[Key]:
        try:
            columns = msgspec.msgpack.decode(endpoint.evidence, type=Columns)
        except msgspec.DecodeError:
            # A newer control may count what this gateway does not know; it still has to serve.
            log.exception("evidence_not_understood", endpoint=endpoint.name)
            return set()
        variants, keys, begun = endpoint.variants, set[Key](), dict[Key, _Arm]()
        start = 0
        for index, length in ring([v.weight for v in variants], endpoint.floor):
            points, start = range(start, start + length), start + length
            variant = variants[index]
            key = (endpoint.name, variant.id, variant.weight_epoch)
            if columns.has(variant.role):
                keys.add(key)
                if key not in self._arms and key not in begun:
                    begun[key] = _Arm(endpoint.name, variant, columns)
                if key in begun:
                    begun[key].points.append(points)
        self._arms |= begun
        return keys

    def _count(self, arm: _Arm, record: Record) -> None:
        seconds = record.total_ns * _NANOSECOND
        code, is_from_memory = "", False
        if isinstance(record, Exchange):
            code, is_from_memory = record.code, record.timing is None
        if code in _OF_THE_CALLER:
            return
        arm.changed = True
        place = record.context.place
        if record.context.joined or (is_from_memory and not code):
            # It is traffic of the arm, and says nothing of the version that gave it once. Who
            # joined an equal request counts so whatever became of that one: failures would
            # else count for everybody who waited, and answers once.
            arm.tally.remembered(self._segment(arm, place), keyed=place >= 0)
            return
        if code and code != _GAVE_UP:
            count = arm.tally.refused if code in _REFUSALS else arm.tally.failed
            count(self._segment(arm, place), keyed=place >= 0)
            return
        # Who gave up had waited so long at least: a version that hangs must not lose its slow ones.
        for outputs in _answers(record):
            segment = self._segment(arm, place)
            arm.tally.answered(segment, seconds, keyed=place >= 0)
            if outputs is not None:
                arm.predictions.count(outputs, arm.tally, segment)

    def _segment(self, arm: _Arm, place: int) -> int:
        """Return where a request counts; one without a key had a point by chance."""
        if place < 0:
            drawn = self._rng.randrange(sum(map(len, arm.points)))
            for points in arm.points:
                place = points.start + drawn
                if drawn < len(points):
                    break
                drawn -= len(points)
        return segment_of(min(place, POINTS - 1))


def _answers(record: Record) -> Iterator[list[Tensor] | None]:
    """Yield the outputs of each request of a record, None for those that were not kept."""
    response = record.response
    if isinstance(record, JointExchange):
        for index in range(len(record)):
            yield None if record.response is None else record.response.alone(index).outputs
    else:
        yield None if response is None else response.outputs
