"""What is wanted of endpoints, and what is seen of processes: what plans are made of."""

from collections.abc import Collection, Mapping

import msgspec

from salver.control.placement import (
    Place,
)
from salver.registry.records import EndpointSpec, VersionRecord
from salver.wire.messages import (
    VariantState,
)

SHARED, DEDICATED, QUARANTINE = "shared", "dedicated", "quarantine"
QUARANTINE_ID = "quarantine-0"
WAITING = "waiting"


class Arm(msgspec.Struct, frozen=True):
    """A version that an endpoint wants beside its primary one.

    ``weight`` is its part of the traffic, and ``sample`` the part of which it gets a copy, both in
    basis points. One with neither is only kept in memory; one whose role is ``WAITING`` is loaded
    and hidden from gateways. ``pinned`` stays in memory where a budget sends others away; one that
    is ``alone`` gets workers of its own, so that it takes no turns from the primary one, and one
    in the ``background`` lets all other processes go first there. It has as many ``replicas`` as
    the endpoint, or this number.
    """

    version: VersionRecord
    role: str
    weight: int = 0
    sample: int = 0
    size_hint_bytes: int = 0
    pinned: bool = False
    size_bytes: int = 0
    alone: bool = False
    background: bool = False
    replicas: int | None = None


class Desired(msgspec.Struct, frozen=True):
    """An endpoint that is wanted, with the version it means now, which is its primary one.

    ``version`` is None when that cannot be resolved, and ``problem`` says why. ``size_hint_bytes``
    is what it took in a worker with a memory budget, 0 before one has loaded it; ``size_bytes`` is
    the same also without budgets. ``salt`` says which callers come first to the arms, ``evidence``
    what gateways count of them, ``captures`` whether they look at answers for it, and ``floor``
    what each weighted one always has of the traffic, in basis points. ``replicas`` is what
    autoscaling made of those that were asked for, None where it has no say. ``places`` are
    those of the versions, by their ids. ``idle_s`` is when it leaves if nobody asks, 0 for never.
    ``timeout_s`` is what requests have that name no time.
    """

    spec: EndpointSpec
    version: VersionRecord | None
    problem: str = ""
    size_hint_bytes: int = 0
    salt: str = ""
    evidence: bytes = b""
    captures: bool = False
    arms: tuple[Arm, ...] = ()
    replicas: int | None = None
    size_bytes: int = 0
    places: Mapping[str, Place] = {}
    idle_s: float = 0.0
    floor: int = 0
    timeout_s: float = 30.0

    @property
    def place(self) -> Place:
        """Where the version is, and how it is run."""
        found = self.places.get(self.version.id) if self.version is not None else None
        return found or Place(self.spec.hosting)

    def each(self) -> "list[Desired]":
        """Return one wish for each version, the primary one first, without arms."""
        own = msgspec.structs.replace(self, arms=())
        return [own] + [
            msgspec.structs.replace(
                own,
                spec=_spec_of(self.spec, arm),
                version=arm.version,
                size_hint_bytes=arm.size_hint_bytes,
                size_bytes=arm.size_bytes,
                replicas=self.replicas if arm.replicas is None else arm.replicas,
            )
            for arm in self.arms
        ]

    @property
    def count(self) -> int:
        """How many workers shall answer."""
        return self.spec.replicas if self.replicas is None else self.replicas


def _spec_of(spec: EndpointSpec, arm: Arm) -> EndpointSpec:
    """Return what an endpoint wants of an arm."""
    hosting = spec.hosting
    if arm.alone:
        hosting = msgspec.structs.replace(hosting, kind=DEDICATED, background=arm.background)
    return msgspec.structs.replace(spec, pinned=spec.pinned or arm.pinned, hosting=hosting)


class Observed(msgspec.Struct, frozen=True):
    """What the processes have reported.

    ``workers``: each connected worker's variants. ``acknowledged``: the oldest plan number that a
    live gateway acts on, None when none is connected. ``successions`` counts for shared workers
    how often each was replaced. ``asleep`` are workers and versions of theirs that can be asked
    although no process runs.
    """

    workers: Mapping[str, Mapping[str, VariantState]]
    acknowledged: int | None
    successions: Mapping[str, int] = {}
    asleep: Collection[tuple[str, str]] = ()
