"""What an endpoint's other versions do beside its primary one, besides rollouts."""

import msgspec

SHADOW, EXPERIMENT = "shadow", "experiment"


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

    @property
    def is_active(self) -> bool:
        """Tell whether it has not ended."""
        return self.ended_unix_ms == 0

    def covers(self, epoch: int) -> bool:
        """Tell whether a weight epoch began while it went on."""
        return self.first_epoch < epoch and not 0 < self.last_epoch <= epoch
