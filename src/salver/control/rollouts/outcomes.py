"""What callers reported of answers, put beside what gateways counted."""

from collections.abc import Mapping, Sequence

import msgspec

from salver.core.routing import CANARY, PRIMARY
from salver.registry.feedback import Sums
from salver.rollout.evidence import Observed
from salver.rollout.machine import Rollout
from salver.rollout.tally import FEEDBACK_COLUMNS, Layout, Table, segment_of


def wanted_of(observed: Sequence[Observed]) -> list[tuple[str, list[int]]]:
    """Return the feedback metrics that blocks have columns for, each with their weight epochs."""
    epochs: dict[str, list[int]] = {}
    for each in observed:
        for name in each.block.primary.feedback:
            epochs.setdefault(name, []).append(each.block.epoch)
    return list(epochs.items())


def with_feedback(
    rollout: Rollout, observed: Sequence[Observed], sums: Mapping[str, Sequence[Sums]]
) -> list[Observed]:
    """Return blocks with reported outcomes in their columns; ``sums`` are by metric.

    Each is added up from all that is stored, so nothing counts twice.
    """
    arms = {_version(rollout.target): CANARY, _version(rollout.source): PRIMARY}
    tables = {
        (each.block.epoch, role): table.rows.copy()
        for each in observed
        for role, table in ((CANARY, each.canary), (PRIMARY, each.primary))
    }
    layouts = {each.block.epoch: each.block.primary for each in observed}
    for name, found in sums.items():
        for one in found:
            role, layout = arms.get(one.version), layouts.get(one.weight_epoch)
            if role is None or layout is None or one.place < 0 or name not in layout.feedback:
                continue
            column = _column(layout, name)
            row = tables[one.weight_epoch, role][segment_of(one.place)]
            row[column : column + FEEDBACK_COLUMNS] += (one.count, one.total, one.squares)
    return [
        msgspec.structs.replace(
            each,
            canary=Table(tables[each.block.epoch, CANARY], each.canary.bins),
            primary=Table(tables[each.block.epoch, PRIMARY], each.primary.bins),
        )
        for each in observed
    ]


def _column(layout: Layout, name: str) -> int:
    return layout.first_feedback + FEEDBACK_COLUMNS * layout.feedback.index(name)


def _version(reference: str) -> int:
    return int(reference.rpartition(":")[2])
