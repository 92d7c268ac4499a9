"""What a plan asks gateways to count of an endpoint's arms."""

import msgspec

from salver.core.errors import InvalidRequest
from salver.core.routing import ARM, CANARY, PRIMARY
from salver.rollout.tally import Layout


class Columns(msgspec.Struct, frozen=True, omit_defaults=True):
    """The columns of both arms, which differ in their latency thresholds only.

    Arms of an experiment have those of a canary. Another ``part`` begins a new weight epoch, though
    the same is counted.
    """

    canary: Layout
    primary: Layout
    part: int = 0

    @property
    def captures(self) -> bool:
        """Tell whether answers have to be looked at."""
        counted = self.primary
        return bool(counted.labels or counted.score_edges or counted.score_mean)

    def has(self, role: str) -> bool:
        """Tell whether variants of this role are counted."""
        return role in (CANARY, PRIMARY, ARM)

    def of(self, role: str) -> Layout:
        """Return the columns of a role; raises ``InvalidRequest`` for one that is not counted."""
        if not self.has(role):
            raise InvalidRequest(f"nothing is counted of a variant in the role {role!r}")
        return self.primary if role == PRIMARY else self.canary


def encode_columns(columns: Columns) -> bytes:
    """Return columns as a plan carries them."""
    return msgspec.msgpack.encode(columns)
