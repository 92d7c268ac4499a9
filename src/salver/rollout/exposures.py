"""What traffic the arms of an experiment got: blocks of constant weight, each count once."""

from collections.abc import Mapping

import msgspec
import numpy as np

from salver.core.errors import InvalidRequest, WireError
from salver.core.routing import PRIMARY, ring
from salver.rollout.evidence import Reading
from salver.rollout.sample_ratio import SplitRatio, shares_of, split_ratio
from salver.rollout.tally import POINTS, REQUESTS, SEGMENTS, Floats, unpack

MAX_BLOCKS = 512
MAX_READINGS = 16_384
_BLOCK = "block"
_MAX_NAME = 128


class Exposures:
    """The blocks of an experiment and its traffic in them; keep ``unsaved`` rows to make it again.

    ``arms`` has the primary one first. ``floor`` is that of ``core.routing.ring``.
    """

    def __init__(self, arms: tuple[str, ...], floor: int) -> None:
        self.arms = arms
        self.floor = floor
        self.blocks: dict[int, tuple[int, ...]] = {}
        self.unsaved: dict[str, bytes] = {}
        self._readings: dict[tuple[str, int, str], Reading] = {}

    def restore(self, rows: Mapping[str, bytes]) -> None:
        """Take up what is stored."""
        for name, body in rows.items():
            kind, _, epoch = name.partition(":")
            if kind == _BLOCK:
                self.blocks[int(epoch)] = msgspec.json.decode(body, type=tuple[int, ...])
        for name, body in rows.items():
            if not name.startswith(_BLOCK):
                self._keep(msgspec.json.decode(body, type=Reading))

    def copy(self) -> "Exposures":
        """Return what is known now, for another thread to look at."""
        found = Exposures(self.arms, self.floor)
        found.blocks, found._readings = dict(self.blocks), dict(self._readings)
        return found

    def begin(self, epoch: int, weights: tuple[int, ...]) -> bool:
        """Open a block; False for one that is known. Raises ``InvalidRequest`` for too many."""
        if epoch in self.blocks:
            return False
        if len(self.blocks) >= MAX_BLOCKS:
            raise InvalidRequest(f"an experiment has at most {MAX_BLOCKS} blocks; start a new one")
        self.blocks[epoch] = weights
        self.unsaved[f"{_BLOCK}:{epoch}"] = msgspec.json.encode(weights)
        return True

    def take(self, reading: Reading) -> None:
        """Take a reading of an arm; old ones and those of blocks not begun change nothing.

        Raises ``WireError`` for counts that cannot be.
        """
        key = (reading.source, reading.epoch, self._name(reading))
        known = self._readings.get(key)
        if reading.epoch not in self.blocks or (known and reading.number <= known.number):
            return
        if key[2] not in self.arms or (known is None and len(self._readings) >= MAX_READINGS):
            raise WireError(f"a reading of arm {reading.arm[:_MAX_NAME]!r} fits no block")
        unpack(reading.counts)
        name = self._keep(reading)
        self.unsaved[name] = msgspec.json.encode(reading)

    def saved(self, rows: Mapping[str, bytes]) -> None:
        """Take note that rows are stored; what has come in the meantime is not."""
        for name, body in rows.items():
            if self.unsaved.get(name) == body:
                del self.unsaved[name]

    def ratio(self, alpha: float) -> SplitRatio:
        """Return whether arms got the traffic of their weights.

        With a floor only requests in the floors are looked at, whose share was always the same,
        because what the weights became depends on what was seen before.
        """
        newest = self.blocks[max(self.blocks)] if self.blocks else (1,) * len(self.arms)
        places = self.floor * len(self.arms) if self.floor else POINTS
        parts = ring(newest, self.floor)
        shares = shares_of(parts, len(self.arms), places)
        requests = [np.where(share > 0.0, self._requests(arm), 0.0)
                    for arm, share in zip(self.arms, shares, strict=True)]  # fmt: skip
        return split_ratio(list(zip(self.arms, shares, strict=True)), requests, alpha)

    def _requests(self, arm: str) -> Floats:
        """Return an arm's requests by segment."""
        own = [reading for (_, _, name), reading in self._readings.items() if name == arm]
        total = np.zeros(SEGMENTS)
        for reading in own:
            total += unpack(reading.counts).rows[:, REQUESTS]
        return total

    def _keep(self, reading: Reading) -> str:
        arm = self._name(reading)
        self._readings[reading.source, reading.epoch, arm] = reading
        return f"{reading.source}:{reading.epoch}:{self.arms.index(arm)}"[:_MAX_NAME]

    def _name(self, reading: Reading) -> str:
        """Return the arm that a gateway means; it calls the primary one by its role."""
        return self.arms[0] if reading.arm == PRIMARY else reading.arm
