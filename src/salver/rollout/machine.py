"""The states of a rollout and what leads from one to the next. Pure: no clock, no storage.

::

    running ──pause──▶ paused ──resume──▶ running
    running or paused ──▶ promoted      the last step is judged well, or a person says so
    running or paused ──▶ rolled_back   the canary does harm, fails to load or stay up; an abort

A rollout begins in step -1, in which the new version is loaded and gets nothing. Every change is a
``Transition``, numbered without gaps, so that none can be written twice.

Only what a judge says of the step that is on leads to the next one, one step at a time. Time is
what ticks bring: each counts for at most ``MAX_TICK_S`` and never backwards, so clocks may jump,
and time in which control was away does not count. A pause stops time. It keeps the weights, and
does not keep the canary from being rolled back: the time of its warm-up goes on.

Where webhooks are asked before steps, what leads to one is written down first (``ask``) and done
when all of them have said yes; ``Asked`` is what waits for that. Where approvals are demanded, a
promotion waits for them (``approvals.py``).
"""

from typing import Any

import msgspec

from salver.core.errors import ApprovalMissing, Conflict, InvalidRequest, NotReady
from salver.core.rollouts import MANUAL
from salver.core.routing import FULL
from salver.core.webhooks import BEFORE_STEP
from salver.rollout.approvals import added, missing
from salver.rollout.judge import asks_a_person, at_once, stuck
from salver.rollout.states import (
    ACTIVE,
    ADVANCE,
    APPROVAL,
    CRASHES,
    HOLD,
    JUDGE,
    MAX_TICK_S,
    PAUSE,
    PAUSED,
    PREPARING,
    PRIMARY_AWAY_S,
    PROMOTE,
    PROMOTED,
    PROMOTION,
    ROLL_BACK,
    ROLLED_BACK,
    RUNNING,
    SYSTEM,
    Answer,
    Asked,
    Command,
    Finding,
    Rollout,
    Tick,
    Transition,
)

__all__ = [
    "ACTIVE",
    "ADVANCE",
    "APPROVAL",
    "CRASHES",
    "HOLD",
    "JUDGE",
    "MAX_TICK_S",
    "PAUSE",
    "PAUSED",
    "PREPARING",
    "PRIMARY_AWAY_S",
    "PROMOTE",
    "PROMOTED",
    "PROMOTION",
    "ROLLED_BACK",
    "ROLL_BACK",
    "RUNNING",
    "SYSTEM",
    "Answer",
    "Asked",
    "Command",
    "Finding",
    "Rollout",
    "Tick",
    "Transition",
    "begun",
    "command",
    "tick",
]

Outcome = tuple[Rollout, Transition | None]


def begun(rollout: Rollout) -> Transition:
    """Return the first line of a rollout's history."""
    reason = f"from {rollout.source} to {rollout.target}"
    evidence = _approvals(rollout) if rollout.approvals else {}
    return Transition(0, "start", rollout.created_by, reason, RUNNING, PREPARING, 0, evidence)


def tick(rollout: Rollout, seen: Tick) -> Outcome:
    """Return the rollout after a look at the world, and the change if there is one.

    One that has ended stays as it is.
    """
    if not rollout.is_active:
        return rollout, None
    rollout = _counted(rollout, seen)
    harm = _harm(rollout, seen)
    if harm is not None:
        return harm
    finding, is_paused = seen.finding, rollout.state == PAUSED
    why = "" if is_paused else stuck(rollout, seen)
    if why:
        return _paused(rollout, SYSTEM, why, finding.evidence if finding is not None else {})
    if rollout.asked is not None and seen.answer is not None and not seen.answer.is_yes:
        return _paused(rollout, SYSTEM, seen.answer.reason)
    if rollout.asked is not None and rollout.asked.wish is not None:
        return _answered(rollout, rollout.asked.wish, seen)
    return (rollout, None) if is_paused else _gone_on(rollout, seen)


def command(rollout: Rollout, wish: Command) -> Outcome:
    """Return the rollout after a person's wish, and the change.

    Raises ``Conflict`` for a wish that does not fit the state, ``NotReady`` for a promotion to a
    version that cannot answer, ``ApprovalMissing`` for one that too few people approve of, and
    ``InvalidRequest``.
    """
    if not rollout.is_active:
        raise Conflict(
            f"rollout {rollout.number} of {rollout.endpoint!r} has ended: {rollout.state}; start "
            f"another with 'salver rollout start {rollout.endpoint}'"
        )
    wishes = {
        "pause": _pause,
        "resume": _resume,
        "promote": _promote,
        "abort": _abort,
        "weight": _weigh,
        "approve": _approve,
    }
    if wish.kind not in wishes:
        raise InvalidRequest(f"a rollout does not know {wish.kind[:40]!r}")
    return wishes[wish.kind](rollout, wish)


def _gone_on(rollout: Rollout, seen: Tick) -> Outcome:
    finding = seen.finding
    if rollout.step == PREPARING:
        return _prepared(rollout, seen.answer) if seen.is_ready else (rollout, None)
    if finding is not None and seen.is_primary_ready:
        return _judged(rollout, finding, seen)
    return rollout, None


def _counted(rollout: Rollout, seen: Tick) -> Rollout:
    """Add what passed; a pause stops time, not crashes, requests, exposure and absences."""
    passed_s = min(max(seen.elapsed_s, 0.0), MAX_TICK_S)
    away_s = 0.0 if seen.is_primary_ready else rollout.away_s + passed_s
    is_exposed = rollout.exposed_s > 0 or rollout.wants_requests
    exposed_s = rollout.exposed_s + (passed_s if is_exposed else 0.0)
    if rollout.state == PAUSED:
        passed_s = 0.0
    is_new = seen.requests is not None and seen.requests > rollout.requests
    requests = max(rollout.requests, seen.requests or 0)
    # Without traffic nothing is counted that could be left out.
    gaps = rollout.gaps.seen(away_s, seen.epoch if rollout.weight else 0)
    is_over = len(gaps.over) > len(rollout.gaps.over)
    return msgspec.structs.replace(
        rollout,
        running_s=rollout.running_s + (passed_s if rollout.step > PREPARING else 0.0),
        step_s=rollout.step_s + passed_s,
        exposed_s=exposed_s,
        quiet_s=0.0 if is_new or rollout.step == PREPARING else rollout.quiet_s + passed_s,
        away_s=away_s,
        gaps=gaps,
        requests=requests,
        step_requests=requests if is_over else rollout.step_requests,
        crashes=max(rollout.crashes, seen.crashes),
    )


def _harm(rollout: Rollout, seen: Tick) -> Outcome | None:
    """Return how it is rolled back, if it is."""
    why = at_once(rollout, seen)
    if why:
        return _ended(rollout, ROLLED_BACK, SYSTEM, why)
    finding = seen.finding
    if finding is not None and finding.kind == ROLL_BACK and rollout.step > PREPARING:
        return _ended(rollout, ROLLED_BACK, JUDGE, finding.reason, finding.evidence)
    return None


def _prepared(rollout: Rollout, answer: Answer | None) -> Outcome:
    """Go on when the new version can answer."""
    why = f"{rollout.target} can answer"
    if rollout.policy.strategy == MANUAL:
        return _moved(rollout, 0, SYSTEM, why)
    if rollout.is_last:
        why += f", and no copies compare it with {rollout.source}"
        return _left_to_people(rollout, SYSTEM, why, {})
    return _asking(rollout, 0, SYSTEM, answer) or _moved(rollout, 0, SYSTEM, why)


def _judged(rollout: Rollout, finding: Finding, seen: Tick) -> Outcome:
    if finding.kind == PAUSE:
        return _paused(rollout, JUDGE, finding.reason, finding.evidence)
    goes_on = finding.kind in (ADVANCE, PROMOTE) and rollout.policy.strategy != MANUAL
    if not (goes_on and seen.is_ready and rollout.is_full):
        return rollout, None
    if rollout.is_last:
        return _at_the_end(rollout, finding, seen.answer)
    step = rollout.step + 1
    asking = _asking(rollout, step, JUDGE, seen.answer)
    return asking or _moved(rollout, step, JUDGE, finding.reason, finding.evidence)


def _at_the_end(rollout: Rollout, finding: Finding, answer: Answer | None) -> Outcome:
    if finding.kind != PROMOTE:
        return rollout, None
    if asks_a_person(rollout):
        return _left_to_people(rollout, JUDGE, finding.reason, finding.evidence)
    asking = _asking(rollout, rollout.step + 1, JUDGE, answer)
    return asking or _ended(rollout, PROMOTED, JUDGE, finding.reason, finding.evidence)


def _left_to_people(rollout: Rollout, actor: str, reason: str, evidence: dict[str, Any]) -> Outcome:
    """Wait for approvals, else for a promotion: without one nothing uncompared is promoted."""
    awaits, asks = PROMOTION, f"promote it with 'salver rollout promote {rollout.endpoint}'"
    if not rollout.is_approved:
        awaits, asks = APPROVAL, _missing(rollout)
        evidence = {**evidence, **_approvals(rollout)}
    paused, transition = _paused(rollout, actor, f"{reason}; {asks}", evidence)
    return msgspec.structs.replace(paused, awaits=awaits), transition


def _asking(rollout: Rollout, step: int, actor: str, answer: Answer | None) -> Outcome | None:
    """Return what happens instead of a step, where webhooks are asked; None for their yes."""
    if not rollout.asks:
        return None
    if rollout.asked is None or rollout.asked.step != step:
        return _ask(rollout, Asked(0, step), actor)
    return None if answer is not None and answer.is_yes else (rollout, None)


def _ask(rollout: Rollout, asked: Asked, actor: str) -> Outcome:
    names = ", ".join(hook.name for hook in rollout.policy.webhooks if BEFORE_STEP in hook.on)
    steps = rollout.policy.steps
    share = steps[asked.step] if asked.step < len(steps) else FULL
    wish = asked.wish
    if wish is not None:
        share = wish.weight if wish.kind == "weight" else FULL
    after, line = _changed(rollout, "ask", actor, f"before {share / 100:g} %: {names}")
    asked = msgspec.structs.replace(asked, sequence=after.sequence)
    return msgspec.structs.replace(after, asked=asked), line


def _answered(rollout: Rollout, wish: Command, seen: Tick) -> Outcome:
    """Do what a person wants when webhooks have said yes; what is judged does not hinder it."""
    if seen.answer is None or not seen.answer.is_yes:
        return rollout, None
    if wish.kind == "weight":
        return _weighed(rollout, wish)
    return _promoted(rollout, wish) if seen.is_ready else (rollout, None)


def _moved(
    rollout: Rollout, step: int, actor: str, reason: str, evidence: dict[str, Any] | None = None
) -> Outcome:
    weight = rollout.policy.steps[step] if rollout.policy.strategy != MANUAL else rollout.weight
    after = msgspec.structs.replace(
        rollout,
        step=step,
        weight=weight,
        step_s=0.0,
        quiet_s=0.0,
        step_requests=rollout.requests,
        reason=reason,
    )
    return _changed(after, "step", actor, reason, evidence)


def _paused(
    rollout: Rollout, actor: str, reason: str, evidence: dict[str, Any] | None = None
) -> Outcome:
    after = msgspec.structs.replace(rollout, state=PAUSED, reason=reason)
    return _changed(after, "pause", actor, reason, evidence)


def _ended(
    rollout: Rollout,
    state: str,
    actor: str,
    reason: str,
    evidence: dict[str, Any] | None = None,
) -> Outcome:
    weight, kind = (FULL, "promote") if state == PROMOTED else (0, "roll_back")
    after = msgspec.structs.replace(rollout, state=state, weight=weight, awaits="", reason=reason)
    return _changed(after, kind, actor, reason, evidence)


def _changed(
    rollout: Rollout, kind: str, actor: str, reason: str, evidence: dict[str, Any] | None = None
) -> Outcome:
    # Whatever changes, the webhooks are asked anew.
    after = msgspec.structs.replace(rollout, sequence=rollout.sequence + 1, asked=None)
    return after, Transition(
        after.sequence, kind, actor, reason, after.state, after.step, after.weight, evidence or {}
    )


def _pause(rollout: Rollout, wish: Command) -> Outcome:
    if rollout.state == PAUSED and rollout.asked is None:
        raise Conflict(f"it is paused already: {rollout.reason}")
    return _paused(rollout, wish.actor, wish.reason or "by hand")


def _resume(rollout: Rollout, wish: Command) -> Outcome:
    if rollout.state != PAUSED:
        raise Conflict("it is not paused")
    if rollout.awaits:
        what = "approve" if rollout.awaits == APPROVAL else "promote"
        raise Conflict(
            f"it waits for 'salver rollout {what} {rollout.endpoint}' or 'salver rollout abort "
            f"{rollout.endpoint}'"
        )
    limit_s = rollout.policy.max_duration_s
    after = msgspec.structs.replace(
        rollout,
        state=RUNNING,
        reason=wish.reason,
        # What stopped it has begun anew, or it would stop at once.
        running_s=0.0 if limit_s and rollout.running_s >= limit_s else rollout.running_s,
        step_s=0.0 if rollout.step == PREPARING else rollout.step_s,
        quiet_s=0.0,
        away_s=0.0,
    )
    return _changed(after, "resume", wish.actor, wish.reason)


def _promote(rollout: Rollout, wish: Command) -> Outcome:
    # One that people are waited for was loaded and checked, also before a first step.
    if rollout.step == PREPARING and not rollout.awaits:
        raise NotReady(f"{rollout.target} is not loaded and checked yet", retry_after_s=1.0)
    if not wish.is_ready:
        raise NotReady(f"{rollout.target} cannot answer at the moment", retry_after_s=1.0)
    if not rollout.is_approved:
        raise ApprovalMissing(_missing(rollout))
    return _unless_asked(rollout, wish) or _promoted(rollout, wish)


def _promoted(rollout: Rollout, wish: Command) -> Outcome:
    return _ended(rollout, PROMOTED, wish.actor, wish.reason or "by hand")


def _unless_asked(rollout: Rollout, wish: Command) -> Outcome | None:
    """Return how webhooks are asked before a person's wish is done, None where none are."""
    if wish.force or not rollout.asks:
        return None
    asked = rollout.asked
    if asked is not None and asked.wish is not None and asked.wish.kind == wish.kind == "promote":
        raise Conflict("webhooks are asked already; --force does it without their answers")
    step = max(rollout.step, len(rollout.policy.steps) - 1)
    return _ask(rollout, Asked(0, step, wish), wish.actor)


def _approve(rollout: Rollout, wish: Command) -> Outcome:
    by = added(rollout.approvals, rollout.approved_by, wish.actor)
    after = msgspec.structs.replace(rollout, approved_by=by)
    reason = wish.reason
    if after.is_approved and after.awaits == APPROVAL:
        if after.policy.auto:
            # The comparison goes on, and leads to the promotion if it still allows it.
            after = msgspec.structs.replace(
                after, state=RUNNING, awaits="", reason="approved", quiet_s=0.0, away_s=0.0
            )
        else:
            asks = f"promote it with 'salver rollout promote {rollout.endpoint}'"
            after = msgspec.structs.replace(after, awaits=PROMOTION, reason=f"approved; {asks}")
    changed, line = _changed(after, "approve", wish.actor, reason, _approvals(after))
    return msgspec.structs.replace(changed, asked=rollout.asked), line


def _missing(rollout: Rollout) -> str:
    return missing(rollout.endpoint, rollout.approvals, rollout.approved_by, rollout.created_by)


def _approvals(rollout: Rollout) -> dict[str, Any]:
    return {
        "approvals": {
            "needed": rollout.approvals,
            "by": list(rollout.approved_by),
            "digest": rollout.digest,
        }
    }


def _abort(rollout: Rollout, wish: Command) -> Outcome:
    return _ended(rollout, ROLLED_BACK, wish.actor, wish.reason or "by hand")


def _weigh(rollout: Rollout, wish: Command) -> Outcome:
    if rollout.policy.strategy != MANUAL:
        raise Conflict(
            "its steps set the weight; start one with '--strategy manual' to set it by hand"
        )
    if not 0 <= wish.weight < FULL:
        raise InvalidRequest(
            f"a canary's weight is 0 to 99.99 percent; 'salver rollout promote "
            f"{rollout.endpoint}' gives it all"
        )
    if rollout.step == PREPARING:
        raise NotReady(f"{rollout.target} is not loaded and checked yet", retry_after_s=1.0)
    asking = _unless_asked(rollout, wish) if wish.weight > rollout.weight else None
    return asking or _weighed(rollout, wish)


def _weighed(rollout: Rollout, wish: Command) -> Outcome:
    after = msgspec.structs.replace(
        rollout, weight=wish.weight, step_requests=rollout.requests, step_s=0.0, quiet_s=0.0
    )
    reason = wish.reason or f"{wish.weight / 100:g} % by hand"
    return _changed(msgspec.structs.replace(after, reason=reason), "weight", wish.actor, reason)
