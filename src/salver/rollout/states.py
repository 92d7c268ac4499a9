"""What a rollout is, what is seen of it, what people want of it, and how it changes."""

from typing import Any

import msgspec

from salver.core.rollouts import MANUAL, RolloutPolicy
from salver.core.webhooks import BEFORE_STEP
from salver.rollout.approvals import enough
from salver.rollout.gaps import Gaps

RUNNING, PAUSED, PROMOTED, ROLLED_BACK = "running", "paused", "promoted", "rolled_back"
ACTIVE = (RUNNING, PAUSED)
PREPARING = -1
MAX_TICK_S = 5.0
CRASHES = 3
PRIMARY_AWAY_S = 60.0
ADVANCE, HOLD, PAUSE, PROMOTE, ROLL_BACK = "advance", "hold", "pause", "promote", "roll_back"
SYSTEM, JUDGE = "salver", "judge"
PROMOTION, APPROVAL = "promotion", "approval"


class Command(msgspec.Struct, frozen=True):
    """What a person wants: pause, resume, promote, abort, weight or approve.

    ``is_ready`` tells whether the new version can answer, which a promotion takes. ``force`` asks
    no webhooks.
    """

    kind: str
    actor: str
    reason: str = ""
    weight: int = 0
    is_ready: bool = True
    force: bool = False


class Asked(msgspec.Struct, frozen=True):
    """What webhooks are asked, in the event ``sequence``: a step, or what a person wants."""

    sequence: int
    step: int
    wish: Command | None = None


class Answer(msgspec.Struct, frozen=True):
    """What the webhooks say that were asked: yes, or why not."""

    is_yes: bool
    reason: str = ""


class Return(msgspec.Struct, frozen=True):
    """That an endpoint went back from version ``source`` to ``target``, by whom, why, and when.

    ``source`` is empty where what was there was no version any more.
    """

    source: str
    target: str
    actor: str
    reason: str
    unix_ms: int


class Rollout(msgspec.Struct, frozen=True):
    """One rollout of an endpoint from version ``source`` to ``target`` (``MODEL:VERSION``).

    ``number`` counts the endpoint's rollouts, ``sequence`` this one's transitions. ``weight`` is
    the canary's, in basis points. ``awaits`` is *promotion* when a person is asked for it, and
    *approval* when people have to approve first; ``approvals`` is how many, ``approved_by`` who
    has. ``digest`` is the new version's. ``asked`` is what waits for webhooks.
    ``running_s`` and ``step_s`` are time that counts, since the first step and in this one, that
    in which it is prepared included. ``exposed_s`` is time since the new version first got
    traffic or copies, pauses included; nothing sets it back. ``quiet_s`` is how long the canary
    has had no request, ``away_s`` how long the primary cannot answer; ``gaps`` are what is left
    out of the comparison for that.
    ``requests`` were the canary's when last looked at, ``step_requests`` those before this step.
    ``crashes`` are ends of processes that the canary is the cause of. What gateways count
    in weight epochs after ``first_epoch`` belongs to this rollout; ``columns`` says what that is.
    ``taken_back`` is how the endpoint left the new version again, after it was promoted.
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
    gaps: Gaps = Gaps()
    requests: int = 0
    step_requests: int = 0
    crashes: int = 0
    first_epoch: int = 0
    columns: bytes = b""
    digest: str = ""
    approvals: int = 0
    approved_by: tuple[str, ...] = ()
    asked: Asked | None = None
    taken_back: Return | None = None

    @property
    def wants_requests(self) -> bool:
        """Whether the canary gets requests or copies, if there are any."""
        return self.weight > 0 or (self.policy.sample > 0 and self.step >= 0)

    @property
    def is_active(self) -> bool:
        """Tell whether it has not ended."""
        return self.state in ACTIVE

    @property
    def is_last(self) -> bool:
        """Tell whether the next step is the promotion."""
        return self.policy.strategy != MANUAL and self.step + 1 >= len(self.policy.steps) - 1

    @property
    def is_approved(self) -> bool:
        """Tell whether as many people as the endpoint demands approve of the new version."""
        return enough(self.approvals, self.approved_by, self.created_by)

    @property
    def asks(self) -> bool:
        """Tell whether webhooks are asked before steps."""
        return any(BEFORE_STEP in hook.on for hook in self.policy.webhooks)

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
    ``crashes`` are those in all that are known now: after a restart fewer than were counted.
    ``answer`` is that of the webhooks which are asked, None until all have said yes or one has not.
    ``epoch`` is the newest weight epoch of which something is counted, 0 if there is none.
    """

    elapsed_s: float
    is_ready: bool
    is_primary_ready: bool
    requests: int | None = None
    finding: Finding | None = None
    failure: str = ""
    problem: str = ""
    crashes: int = 0
    answer: Answer | None = None
    epoch: int = 0


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
