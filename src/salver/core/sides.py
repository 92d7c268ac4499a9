"""What an endpoint's other versions do beside its primary one, besides rollouts."""

import msgspec

from salver.core.feedback import ANY_VALUE, Bounds

SHADOW, EXPERIMENT = "shadow", "experiment"
THOMPSON = "thompson"
"""A split that follows success."""


class SideArm(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version (``MODEL:VERSION``) with its part of the traffic, or of which it gets copies.

    Both in basis points.
    """

    version: str
    weight: int = 0
    sample: int = 0


class Side(msgspec.Struct, frozen=True, omit_defaults=True):
    """A shadow or an experiment of an endpoint.

    The first of an experiment's ``arms`` is the primary version, which the others are compared
    with by the feedback ``metric``. ``salt`` says which callers meet which arm. Weight epochs up to
    ``first_epoch`` were before it began, those from ``last_epoch`` on come after its end (0: it has
    not ended).

    Where ``split`` is ``THOMPSON``, the arms' weights have been changed ``changes`` times, each
    arm keeps the same ``floor`` of the traffic (basis points), and smaller values are better where
    ``prefers_less``. ``sticky`` tells whether callers had a key to keep them in their arm; None for
    what began before that was kept. Outcomes outside the ``bounds`` are refused.
    """

    endpoint: str
    number: int
    kind: str
    arms: tuple[SideArm, ...]
    salt: str
    first_epoch: int
    started_unix_ms: int
    started_by: str
    metric: str = ""
    last_epoch: int = 0
    ended_unix_ms: int = 0
    split: str = ""
    floor: int = 0
    prefers_less: bool = False
    changes: int = 0
    sticky: bool | None = None
    bounds: Bounds = ANY_VALUE

    @property
    def is_active(self) -> bool:
        """Tell whether it has not ended."""
        return self.ended_unix_ms == 0

    def covers(self, epoch: int) -> bool:
        """Tell whether a weight epoch began while it went on."""
        return self.first_epoch < epoch and not 0 < self.last_epoch <= epoch

    @property
    def weights(self) -> dict[str, int]:
        """Each arm's part of the traffic, in basis points."""
        return {arm.version: arm.weight for arm in self.arms}
