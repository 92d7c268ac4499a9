"""What it means for a rollout that has ended when its endpoint goes back to what it was. Pure."""

import msgspec

from salver.core.routing import FULL
from salver.rollout.states import PROMOTED, Return, Rollout, Transition


def gone_back(rollout: Rollout, back: Return) -> tuple[Rollout, Transition]:
    """Return an endpoint's newest rollout, which has ended, and the line that its history gets.

    Its state stays as it ended. A promotion that was left is ``taken_back``; going back from what
    came after it, such as a deploy, is a line only. The weight is the new version's from then on.
    """
    serves = back.target == rollout.target
    is_undone = rollout.state == PROMOTED and back.source == rollout.target and not serves
    after = msgspec.structs.replace(
        rollout,
        sequence=rollout.sequence + 1,
        taken_back=back if is_undone else rollout.taken_back,
    )
    came_from = f"from {back.source} " if back.source else ""
    return after, Transition(
        after.sequence,
        "go_back",
        back.actor,
        f"{came_from}to {back.target}: {back.reason}",
        after.state,
        after.step,
        FULL if serves else 0,
        {"from": back.source, "to": back.target},
    )
