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
"""

from typing import Any

import msgspec

from salver.core.errors import Conflict, InvalidRequest, NotReady
from salver.core.rollouts import MANUAL, RolloutPolicy
from salver.core.routing import FULL

RUNNING, PAUSED, PROMOTED, ROLLED_BACK = "running", "paused", "promoted", "rolled_back"
ACTIVE = (RUNNING, PAUSED)
PREPARING = -1
MAX_TICK_S = 5.0
CRASHES = 3
PRIMARY_AWAY_S = 60.0
ADVANCE, HOLD, PAUSE, PROMOTE, ROLL_BACK = "advance", "hold", "pause", "promote", "roll_back"
SYSTEM, JUDGE = "salver", "judge"
PROMOTION = "promotion"


class Rollout(msgspec.Struct, frozen=True):
    """One rollout of an endpoint from version ``source`` to ``target`` (``MODEL:VERSION``).

    ``number`` counts the endpoint's rollouts, ``sequence`` this one's transitions. ``weight`` is
    the canary's, in basis points. ``awaits`` is *promotion* when a person is asked for it.
    ``running_s`` and ``step_s`` are time that counts, since the first step and in this one, that
    in which it is prepared included. ``exposed_s`` is time since the new version first got
    traffic or copies, pauses included; nothing sets it back. ``quiet_s`` is how long the canary
    has had no request, ``away_s`` how long the primary cannot answer.
    ``requests`` were the canary's when last looked at, ``step_requests`` those before this step.
    ``crashes`` are ends of workers that host the canary and not the primary. What gateways count
    in weight epochs after ``first_epoch`` belongs to this rollout; ``columns`` says what that is.
    """

    endpoint: str
    number: int
    source: str
    target: str
    policy: RolloutPolicy
    salt: str
    created_unix_ms: int
    created_by: str
    state: str = RUNNING
    step: int = PREPARING
    weight: int = 0
    sequence: int = 0
    awaits: str = ""
    reason: str = ""
    running_s: float = 0.0
    step_s: float = 0.0
    exposed_s: float = 0.0
    quiet_s: float = 0.0
    away_s: float = 0.0
    requests: int = 0
    step_requests: int = 0
    crashes: int = 0
    first_epoch: int = 0
    columns: bytes = b""

    @property
    def is_active(self) -> bool:
        """Tell whether it has not ended."""
        return self.state in ACTIVE

    @property
    def is_last(self) -> bool:
        """Tell whether the next step is the promotion."""
        return self.policy.strategy != MANUAL and self.step + 1 >= len(self.policy.steps) - 1

    @property
    def is_full(self) -> bool:
        """Tell whether enough requests and time have passed in this step."""
        asked = self.policy.min_requests if self.step >= 0 else 0
        seen = self.requests - self.step_requests
        return seen >= asked and self.step_s >= self.policy.step_s


class Finding(msgspec.Struct, frozen=True):
    """What a judge says: hold, advance, pause, promote or roll_back, why, and on what grounds.

    ``evidence`` are the metrics with their intervals and sample sizes.
    """

    kind: str
    reason: str
    evidence: dict[str, Any] = {}


class Tick(msgspec.Struct, frozen=True):
    """Time passed, and this is what is seen.

    ``requests`` are the canary's in all since the rollout began; None when nobody could count.
    ``failure`` says why the canary cannot be loaded, ``problem`` why there is no finding.
    ``crashes`` are new ones.
    """

    elapsed_s: float
    is_ready: bool
    is_primary_ready: bool
    requests: int | None = None
    finding: Finding | None = None
    failure: str = ""
    problem: str = ""
    crashes: int = 0


class Command(msgspec.Struct, frozen=True):
    """What a person wants: pause, resume, promote, abort or weight.

    ``is_ready`` tells whether the new version can answer, which a promotion takes.
    """

    kind: str
    actor: str
    reason: str = ""
    weight: int = 0
    is_ready: bool = True


class Transition(msgspec.Struct, frozen=True):
    """One change of a rollout, for its history."""

    sequence: int
    kind: str
    actor: str
    reason: str
    state: str
    step: int
    weight: int
    evidence: dict[str, Any] = {}


Outcome = tuple[Rollout, Transition | None]


def begun(rollout: Rollout) -> Transition:
    """Return the first line of a rollout's history."""
    reason = f"from {rollout.source} to {rollout.target}"
    return Transition(0, "start", rollout.created_by, reason, rollout.state, PREPARING, 0)


def tick(rollout: Rollout, seen: Tick) -> Outcome:
    """Return the rollout after a look at the world, and the change if there is one.

    One that has ended stays as it is.
    """
    if not rollout.is_active:
        return rollout, None
    rollout = _counted(rollout, seen)
    harm = _harm(rollout, seen)
    if harm is not None or rollout.state == PAUSED:
        return harm or (rollout, None)
    finding = seen.finding
    why = _stuck(rollout, seen)
    if why:
        return _paused(rollout, SYSTEM, why, finding.evidence if finding is not None else {})
    if rollout.step == PREPARING:
        return _prepared(rollout) if seen.is_ready else (rollout, None)
    if finding is not None and seen.is_primary_ready:
        return _judged(rollout, finding, can_answer=seen.is_ready)
    return rollout, None


def command(rollout: Rollout, wish: Command) -> Outcome:
    """Return the rollout after a person's wish, and the change.

    Raises ``Conflict`` for a wish that does not fit the state, ``NotReady`` for a promotion to a
    version that cannot answer, and ``InvalidRequest``.
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
    }
    if wish.kind not in wishes:
        raise InvalidRequest(f"a rollout does not know {wish.kind[:40]!r}")
    return wishes[wish.kind](rollout, wish)


def _counted(rollout: Rollout, seen: Tick) -> Rollout:
    """Add what passed; a pause stops time, not crashes, requests and exposure."""
    passed_s = min(max(seen.elapsed_s, 0.0), MAX_TICK_S)
    is_exposed = rollout.exposed_s > 0 or _wants_requests(rollout)
    exposed_s = rollout.exposed_s + (passed_s if is_exposed else 0.0)
    if rollout.state == PAUSED:
        passed_s = 0.0
    is_new = seen.requests is not None and seen.requests > rollout.requests
    return msgspec.structs.replace(
        rollout,
        running_s=rollout.running_s + (passed_s if rollout.step > PREPARING else 0.0),
        step_s=rollout.step_s + passed_s,
        exposed_s=exposed_s,
        quiet_s=0.0 if is_new or rollout.step == PREPARING else rollout.quiet_s + passed_s,
        away_s=0.0 if seen.is_primary_ready else rollout.away_s + passed_s,
        requests=max(rollout.requests, seen.requests or 0),
        crashes=rollout.crashes + max(seen.crashes, 0),
    )


def _harm(rollout: Rollout, seen: Tick) -> Outcome | None:
    """Return how it is rolled back, if it is."""
    if seen.failure:
        return _ended(rollout, ROLLED_BACK, SYSTEM, f"it cannot be loaded: {seen.failure}")
    if rollout.crashes >= CRASHES:
        why = f"its worker ended {rollout.crashes} times"
        return _ended(rollout, ROLLED_BACK, SYSTEM, why)
    finding = seen.finding
    if finding is not None and finding.kind == ROLL_BACK and rollout.step > PREPARING:
        return _ended(rollout, ROLLED_BACK, JUDGE, finding.reason, finding.evidence)
    return None


def _stuck(rollout: Rollout, seen: Tick) -> str:
    """Say why a person has to look, or nothing."""
    policy = rollout.policy
    if rollout.away_s >= PRIMARY_AWAY_S:
        return f"{rollout.source}, the primary, cannot answer"
    if rollout.step == PREPARING:
        if rollout.step_s >= policy.prepare_s:
            return f"{rollout.target} cannot answer after {rollout.step_s:.0f} s"
        return ""
    if policy.max_duration_s and rollout.running_s >= policy.max_duration_s:
        return f"it has taken {rollout.running_s:.0f} s"
    if _wants_requests(rollout) and rollout.quiet_s >= policy.no_traffic_s:
        return f"the canary has had no request for {rollout.quiet_s:.0f} s"
    return seen.problem


def _wants_requests(rollout: Rollout) -> bool:
    return rollout.weight > 0 or (rollout.policy.sample > 0 and rollout.step >= 0)


def _prepared(rollout: Rollout) -> Outcome:
    """Go on when the new version can answer."""
    if rollout.policy.strategy == MANUAL:
        return _moved(rollout, 0, SYSTEM, f"{rollout.target} can answer")
    if rollout.is_last:
        why = f"{rollout.target} can answer, and no copies compare it with {rollout.source}"
        return _asked(rollout, SYSTEM, why, {})
    return _moved(rollout, 0, SYSTEM, f"{rollout.target} can answer")


def _judged(rollout: Rollout, finding: Finding, *, can_answer: bool) -> Outcome:
    if finding.kind == PAUSE:
        return _paused(rollout, JUDGE, finding.reason, finding.evidence)
    goes_on = finding.kind in (ADVANCE, PROMOTE) and rollout.policy.strategy != MANUAL
    if not (goes_on and can_answer and rollout.is_full):
        return rollout, None
    if not rollout.is_last:
        return _moved(rollout, rollout.step + 1, JUDGE, finding.reason, finding.evidence)
    if finding.kind != PROMOTE:
        return rollout, None
    return _at_the_end(rollout, JUDGE, finding.reason, finding.evidence)


def _at_the_end(rollout: Rollout, actor: str, reason: str, evidence: dict[str, Any]) -> Outcome:
    if rollout.policy.auto:
        return _ended(rollout, PROMOTED, actor, reason, evidence)
    return _asked(rollout, actor, reason, evidence)


def _asked(rollout: Rollout, actor: str, reason: str, evidence: dict[str, Any]) -> Outcome:
    """Wait for a person; nothing that was not compared is promoted without one."""
    asks = f"{reason}; promote it with 'salver rollout promote {rollout.endpoint}'"
    paused, transition = _paused(rollout, actor, asks, evidence)
    return msgspec.structs.replace(paused, awaits=PROMOTION), transition


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
    after = msgspec.structs.replace(rollout, sequence=rollout.sequence + 1)
    return after, Transition(
        after.sequence, kind, actor, reason, after.state, after.step, after.weight, evidence or {}
    )


def _pause(rollout: Rollout, wish: Command) -> Outcome:
    if rollout.state == PAUSED:
        raise Conflict(f"it is paused already: {rollout.reason}")
    return _paused(rollout, wish.actor, wish.reason or "by hand")


def _resume(rollout: Rollout, wish: Command) -> Outcome:
    if rollout.state != PAUSED:
        raise Conflict("it is not paused")
    if rollout.awaits == PROMOTION:
        raise Conflict(
            f"it waits for 'salver rollout promote {rollout.endpoint}' or 'salver rollout abort "
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
    if rollout.step == PREPARING and rollout.awaits != PROMOTION:
        raise NotReady(f"{rollout.target} is not loaded and checked yet", retry_after_s=1.0)
    if not wish.is_ready:
        raise NotReady(f"{rollout.target} cannot answer at the moment", retry_after_s=1.0)
    return _ended(rollout, PROMOTED, wish.actor, wish.reason or "by hand")


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
    after = msgspec.structs.replace(
        rollout, weight=wish.weight, step_requests=rollout.requests, step_s=0.0, quiet_s=0.0
    )
    reason = wish.reason or f"{wish.weight / 100:g} % by hand"
    return _changed(msgspec.structs.replace(after, reason=reason), "weight", wish.actor, reason)
