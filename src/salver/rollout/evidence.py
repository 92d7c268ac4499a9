"""Evidence of a rollout: what gateways counted, block by block, each count once.

A block is a time of constant weight (a weight epoch). Within it, which arm a caller meets was
drawn by the hash of its routing key and by nothing else, so the arms may be compared; across
blocks they may not, because the share of the canary moves together with the time of day.
"""

import msgspec
import numpy as np

from salver.core.errors import InvalidRequest, WireError
from salver.core.routing import CANARY, PRIMARY
from salver.rollout.tally import LATENCY_BINS, POINTS, SEGMENTS, Layout, Packed, Table, unpack

MAX_BLOCKS = 64


class Block(msgspec.Struct, frozen=True):
    """A time of constant weight.

    ``weight`` is the canary's, in basis points, over the segments ``[0, weight / 5)``. Counts of a
    ``warmup`` block are never compared. ``canary`` and ``primary`` are the columns of the arms;
    they differ in their latency thresholds only.
    """

    epoch: int
    weight: int
    canary: Layout
    primary: Layout
    warmup: bool = False

    def validate(self) -> None:
        """Raise ``InvalidRequest`` for a block that cannot be compared."""
        if not 0 < self.weight <= POINTS:
            raise InvalidRequest(
                f"a block's weight is 1 to {POINTS} basis points, not {self.weight}"
            )
        if (
            msgspec.structs.replace(self.canary, thresholds_s=self.primary.thresholds_s)
            != self.primary
        ):
            raise InvalidRequest(
                "both arms must count the same columns; only thresholds may differ"
            )
        self.canary.validate()
        self.primary.validate()


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """One gateway's cumulative counts of one arm in one block.

    ``source`` is unique per process start. Of each (source, epoch, arm) the reading with the
    highest ``number`` stands for all before it, so repeated, late and lost ones do no harm.
    """

    source: str
    number: int
    epoch: int
    arm: str
    counts: Packed


class Observed(msgspec.Struct, frozen=True):
    """A block with all that was counted in it."""

    block: Block
    canary: Table
    primary: Table


class Collection:
    """All readings of a rollout. Keep ``readings()`` and ``blocks`` and it can be made again."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self._readings: dict[tuple[str, int, str], Reading] = {}

    def begin(self, block: Block) -> None:
        """Open a block; the same one again is nothing new.

        Raises ``InvalidRequest`` for a block that differs from one known under its epoch, for one
        that cannot be compared, and for more than ``MAX_BLOCKS``.
        """
        known = self._blocks.get(block.epoch)
        if known == block:
            return
        if known is not None:
            raise InvalidRequest(
                f"block {block.epoch} is already known with other columns or weight"
            )
        if len(self._blocks) >= MAX_BLOCKS:
            raise InvalidRequest(
                f"a rollout has at most {MAX_BLOCKS} blocks; end it and start anew"
            )
        block.validate()
        self._blocks[block.epoch] = block

    def take(self, reading: Reading) -> bool:
        """Take a reading; False when it is old, repeated, or of a block not begun.

        Raises ``WireError`` for counts that do not fit the block.
        """
        block = self._blocks.get(reading.epoch)
        key = (reading.source, reading.epoch, reading.arm)
        known = self._readings.get(key)
        if block is None or (known is not None and reading.number <= known.number):
            return False
        if reading.arm not in (CANARY, PRIMARY) or reading.counts.width != block.canary.width:
            raise WireError(f"a reading of arm {reading.arm!r} does not fit block {reading.epoch}")
        unpack(reading.counts)
        self._readings[key] = reading
        return True

    def readings(self) -> list[Reading]:
        """Return what must be kept, one for each (source, epoch, arm)."""
        return list(self._readings.values())

    def blocks(self) -> list[Block]:
        """Return the blocks in the order of their epochs."""
        return [self._blocks[epoch] for epoch in sorted(self._blocks)]

    def observed(self) -> list[Observed]:
        """Return every block with the counts of all sources."""
        tables = {
            (block.epoch, arm): empty(block.canary.width)
            for block in self._blocks.values()
            for arm in (CANARY, PRIMARY)
        }
        for (_, epoch, arm), reading in self._readings.items():
            tables[epoch, arm] = tables[epoch, arm].plus(unpack(reading.counts))
        return [
            Observed(block, tables[block.epoch, CANARY], tables[block.epoch, PRIMARY])
            for block in self.blocks()
        ]


def empty(width: int) -> Table:
    """Return a table in which nothing was counted."""
    return Table(np.zeros((SEGMENTS, width)), np.zeros(LATENCY_BINS))
