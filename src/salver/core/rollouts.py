"""How the version behind an endpoint is changed: what its owner wrote down."""

from itertools import pairwise
from typing import Any

import msgspec

from salver.core.errors import InvalidRequest
from salver.core.routing import FULL
from salver.core.webhooks import Webhook

CANARY, BLUE_GREEN, MANUAL = "canary", "blue-green", "manual"
STRATEGIES = (CANARY, BLUE_GREEN, MANUAL)
DEFAULT_STEPS = (500, 2500, 5000, FULL)
MAX_STEPS = 32
MAX_APPROVALS = 16
_LONGEST_S = 30 * 86_400.0
_MAX_REQUESTS = 10**9
_ROUNDING = 1e-6


class RolloutPolicy(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a rollout does.

    ``steps`` are the canary's weights in basis points, rising; the last is all traffic, and
    reaching it is the promotion. ``auto`` promotes without asking a person, unless nothing is
    compared. ``min_requests`` and ``step_s`` are what the canary must have had in a step before
    the next. ``max_duration_s`` is the time after which a person is asked, ``no_traffic_s`` the
    same without a request to the canary, ``prepare_s`` the same until the new version can answer;
    pauses do not count.
    ``sample`` (blue-green) is the share of traffic that the new version gets copies of before the
    switch, in basis points. The version that was replaced stays in memory for
    ``keep_previous_s``. ``analysis`` has further settings of the comparison. ``webhooks`` are told,
    and asked before steps, besides those of the endpoint.
    """

    strategy: str = CANARY
    steps: tuple[int, ...] = DEFAULT_STEPS
    auto: bool = False
    min_requests: int = 200
    step_s: float = 0.0
    max_duration_s: float = 1800.0
    no_traffic_s: float = 60.0
    prepare_s: float = 600.0
    sample: int = 0
    keep_previous_s: float = 3600.0
    analysis: dict[str, Any] = {}
    webhooks: tuple[Webhook, ...] = ()


def check_policy(policy: RolloutPolicy) -> RolloutPolicy:
    """Return a policy in its usual form: steps end with all traffic, and manual ones have none.

    Raises ``InvalidRequest`` for what cannot be meant.
    """
    if policy.strategy not in STRATEGIES:
        raise InvalidRequest(
            f"a rollout's strategy is one of {', '.join(STRATEGIES)}, not {policy.strategy[:40]!r}"
        )
    steps = _steps(policy)
    for name in ("step_s", "max_duration_s", "no_traffic_s", "prepare_s", "keep_previous_s"):
        if not 0 <= getattr(policy, name) <= _LONGEST_S:
            raise InvalidRequest(f"{name} is 0 to {_LONGEST_S:.0f} seconds")
    if not 0 <= policy.min_requests <= _MAX_REQUESTS:
        raise InvalidRequest(f"min_requests is 0 to {_MAX_REQUESTS}")
    if not 0 <= policy.sample <= FULL:
        raise InvalidRequest("sample is 0 to 100 percent")
    if policy.sample and policy.strategy != BLUE_GREEN:
        raise InvalidRequest("only blue-green rollouts look at copies before the switch")
    return msgspec.structs.replace(policy, steps=steps)


def _steps(policy: RolloutPolicy) -> tuple[int, ...]:
    if policy.strategy == MANUAL:
        return ()
    if policy.strategy == BLUE_GREEN:
        return (0, FULL) if policy.sample else (FULL,)
    steps = policy.steps if policy.steps[-1:] == (FULL,) else (*policy.steps, FULL)
    if len(steps) > MAX_STEPS:
        raise InvalidRequest(f"a rollout has at most {MAX_STEPS} steps")
    if steps[0] <= 0 or any(a >= b for a, b in pairwise(steps)):
        raise InvalidRequest(
            "steps are rising parts of the traffic above 0 and at most 100 percent, "
            "such as 5,25,50,100"
        )
    if steps == (FULL,):
        raise InvalidRequest(
            "a canary's first step is below 100 percent, or nothing could be compared; to switch "
            "at once use the strategy blue-green"
        )
    return steps


def steps_of(percents: str) -> tuple[int, ...]:
    """Read steps as people write them, ``5,25,50,100``, in hundredths of a percent at the finest.

    Raises ``InvalidRequest``.
    """
    return tuple(basis_points(part) for part in percents.split(","))


def basis_points(percent: str | float) -> int:
    """Return a part of the traffic in basis points; raises ``InvalidRequest``."""
    text = str(percent).strip().removesuffix("%")
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidRequest(f"{text[:40]!r} is no part of the traffic in percent") from error
    points = round(value * 100) if abs(value) <= FULL else -1
    if not 0 <= points <= FULL or abs(points - value * 100) > _ROUNDING:
        raise InvalidRequest(
            f"a part of the traffic is 0 to 100 percent in steps of 0.01, not {text[:40]!r}"
        )
    return points
