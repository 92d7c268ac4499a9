"""What the API takes; unknown fields are refused."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from salver.control.api.shapes import Body, Shaped
from salver.control.rollouts.judging import Analysis
from salver.control.rollouts.sides import ExperimentPlan
from salver.core.feedback import Bounds
from salver.core.hosting import (
    AUTO,
    MAX_GPU,
    MAX_INSTANCES,
    MAX_THREADS,
    Execution,
    Hosting,
    Limits,
)
from salver.core.rollouts import MAX_APPROVALS, RolloutPolicy, basis_points, check_policy
from salver.core.routing import Routing
from salver.core.webhooks import MAX_ATTEMPTS, MAX_BUDGET_S, MAX_TIMEOUT_S, MAX_WEBHOOKS, Webhook

_DIGEST = Field(pattern="^[0-9a-f]{64}$")
# Not every database stores all control characters, and terminals obey some.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
_LINES = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"

Person = Annotated[str, Field(min_length=1, max_length=128, pattern=PRINTABLE)]
Text = Annotated[str, Field(max_length=1024, pattern=_LINES)]


class FileBody(Body):
    """One uploaded file of an artifact."""

    path: str = Field(max_length=4096)
    sha256: str = _DIGEST
    size_bytes: int = Field(ge=0)


class DocumentBody(Body):
    """An uploaded example or golden file."""

    name: str = Field(max_length=255)
    sha256: str = _DIGEST


class ColumnBody(Body):
    """What holds for one input column."""

    minimum: float | None = None
    maximum: float | None = None
    categories: list[str | int | float | bool] | None = Field(default=None, max_length=10_000)
    sensitive: bool = False


class SequenceInputBody(Body):
    """How one input is filled up."""

    axis: int = Field(default=1, ge=1, le=32)
    pad: float = 0


class SequencesBody(Body):
    """How rows of unlike lengths may run together."""

    inputs: dict[str, SequenceInputBody] = Field(min_length=1, max_length=64)
    mask: str = Field(default="", max_length=256)


class PushBody(Body):
    """A new version of a model."""

    files: list[FileBody] = Field(max_length=1000)
    runtime: str | None = Field(default=None, max_length=64)
    example: DocumentBody | None = None
    golden: DocumentBody | None = None
    alias: str | None = Field(default=None, max_length=128)
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)
    trust_pickle: bool = False
    trust_code: bool = False
    columns: dict[str, ColumnBody] = Field(default_factory=dict, max_length=10_000)
    steps: dict[str, Any] | None = None
    provenance: dict[str, str] = Field(default_factory=dict, max_length=64)
    sequences: SequencesBody | None = None


class AliasBody(Body):
    """Where an alias shall point."""

    version: int = Field(ge=1)


class WebhookBody(Body):
    """Who is told of rollouts, and asked before their steps."""

    name: str = Field(min_length=1, max_length=64)
    url: str = Field(min_length=1, max_length=2048)
    on: list[Literal["before_step", "promoted", "rolled_back", "paused"]] = Field(
        min_length=1, max_length=4
    )
    timeout_s: float = Field(default=10.0, ge=0.1, le=MAX_TIMEOUT_S)
    attempts: int = Field(default=5, ge=1, le=MAX_ATTEMPTS)
    budget_s: float = Field(default=120.0, ge=1, le=MAX_BUDGET_S)

    def webhook(self) -> Webhook:
        """Return it in the words of the code."""
        on = tuple(self.on)
        return Webhook(self.name, self.url, on, self.timeout_s, self.attempts, self.budget_s)

    @classmethod
    def of(cls, webhook: Webhook) -> "WebhookBody":
        """Return a webhook as people write it."""
        return cls.model_validate({**msgspec.structs.asdict(webhook), "on": list(webhook.on)})


class RolloutPolicyBody(Body):
    """How versions change; weights and sample are percents of the traffic."""

    strategy: str = Field(default="canary", max_length=16)
    steps: list[float] = Field(default=[5, 25, 50, 100], min_length=1, max_length=32)
    auto: bool = False
    min_requests: int = Field(default=200, ge=0, le=10**9)
    step_s: float = Field(default=0.0, ge=0)
    max_duration_s: float = Field(default=1800.0, ge=0)
    no_traffic_s: float = Field(default=60.0, ge=0)
    prepare_s: float = Field(default=600.0, ge=0)
    sample: float = Field(default=0.0, ge=0, le=100)
    keep_previous_s: float = Field(default=3600.0, ge=0)
    analysis: Annotated[dict[str, Any], Shaped(Analysis)] = Field(default_factory=dict)
    webhooks: list[WebhookBody] = Field(default_factory=list, max_length=MAX_WEBHOOKS)

    @classmethod
    def of(cls, policy: RolloutPolicy) -> "RolloutPolicyBody":
        """Return a policy as people write it; whether it can be meant is not asked again."""
        values = {name: getattr(policy, name) for name in cls.model_fields}
        shown = [step / 100 for step in policy.steps] or [100.0]
        hooks = [WebhookBody.of(hook) for hook in policy.webhooks]
        own = {"steps": shown, "sample": policy.sample / 100, "webhooks": hooks}
        return cls.model_construct(**{**values, **own})

    def policy(self) -> RolloutPolicy:
        """Return it in the words of the code; raises ``InvalidRequest``."""
        return check_policy(
            RolloutPolicy(
                self.strategy,
                tuple(basis_points(step) for step in self.steps),
                self.auto,
                self.min_requests,
                self.step_s,
                self.max_duration_s,
                self.no_traffic_s,
                self.prepare_s,
                basis_points(self.sample),
                self.keep_previous_s,
                self.analysis,
                tuple(hook.webhook() for hook in self.webhooks),
            )
        )


class ActionBody(Body):
    """Something that a person wants, who it is, and why."""

    by: Person = "local"
    reason: Text = ""


class ApproveBody(Body):
    """That somebody approves of the version that is rolled out, or of another."""

    by: Person = "local"
    comment: Text = ""
    version: str = Field(default="", max_length=300)


class PromoteBody(ActionBody):
    """The end of a rollout, without asking webhooks if ``force``."""

    force: bool = False


class RolloutBody(RolloutPolicyBody):
    """A rollout that shall begin."""

    to: str = Field(min_length=1, max_length=300)
    by: Person = "local"
    force: bool = False


class ShadowBody(ActionBody):
    """A version that shall get copies of a share of the requests."""

    version: str = Field(min_length=1, max_length=300)
    sample: float = Field(default=1.0, gt=0, le=1)
    force: bool = False


class ExperimentBody(ActionBody):
    """Versions between which requests are split, and what they are compared by.

    ``split`` is in percent, or *thompson*: it follows success, with ``floor`` percent for each.
    Outcomes outside ``minimum`` to ``maximum`` are refused.
    """

    arms: list[str] = Field(min_length=2, max_length=8)
    split: Annotated[list[float], Field(min_length=2, max_length=8)] | Literal["thompson"]
    metric: str = Field(default="outcome", min_length=1, max_length=64)
    floor: float = Field(default=10.0, gt=0, le=50)
    prefer: Literal["more", "less"] = "more"
    minimum: float | None = None
    maximum: float | None = None
    force: bool = False

    def plan(self) -> ExperimentPlan:
        """Return it in the words of the code; raises ``InvalidRequest``."""
        follows = isinstance(self.split, str)
        split = () if isinstance(self.split, str) else tuple(map(basis_points, self.split))
        floor = basis_points(self.floor) if follows else 0
        return ExperimentPlan(
            tuple(self.arms),
            split,
            self.metric,
            floor,
            follows and self.prefer == "less",
            Bounds(self.minimum, self.maximum),
        )


class CallerBody(Body):
    """What was known of one caller before an experiment."""

    key: str = Field(min_length=1, max_length=4096)
    value: float


class CovariateBody(Body):
    """What was known of callers; with ``replace`` instead of what was said before."""

    callers: list[CallerBody] = Field(min_length=1, max_length=10_000)
    replace: bool = False


class WeightBody(ActionBody):
    """A canary's weight in percent; with ``force`` no webhooks are asked."""

    weight: float = Field(ge=0, le=100)
    force: bool = False


class RollbackBody(ActionBody):
    """Going back, whatever stands against it if ``force``."""

    force: bool = False


class EndpointBody(Body):
    """What an endpoint shall serve, and how."""

    model: str = Field(max_length=300)
    replicas: int = Field(default=1, ge=1, le=64)
    validation: str = "off"
    timeout_s: float | None = Field(default=None, gt=0, le=3600)
    max_batch_size: int | None = Field(default=None, ge=1, le=65536)
    max_queue: int | None = Field(default=None, ge=1, le=1_000_000)
    max_batch_tokens: int | None = Field(default=None, ge=1, le=2**31)
    max_queue_delay_ms: float = Field(default=0.0, ge=0, le=10_000)
    priorities: bool = False
    batching: str = Field(default="fixed", max_length=16)
    objective_ms: float = Field(default=0.0, ge=0, le=3_600_000)
    max_padding: float = Field(default=0.1, ge=0, lt=1)
    cache: bool = False
    pinned: bool = False
    routing: Annotated[dict[str, Any], Shaped(Routing)] | None = None
    rollout: RolloutPolicyBody | None = None
    min_replicas: int | None = Field(default=None, ge=0, le=64)
    max_replicas: int | None = Field(default=None, ge=1, le=64)
    scale_on: str = Field(default="concurrency", max_length=16)
    scale_target: float | None = Field(default=None, gt=0, le=1_000_000)
    scale_down_delay_s: float | None = Field(default=None, ge=0, le=3600)
    hosting: str = Field(default=AUTO, max_length=16)
    instances: int = Field(default=1, ge=1, le=MAX_INSTANCES)
    threads: int = Field(default=0, ge=0, le=MAX_THREADS)
    cpus: str = Field(default="", max_length=256)
    memory_limit_bytes: int = Field(default=0, ge=0, le=2**50)
    gpu: int | None = Field(default=None, ge=0, le=MAX_GPU)
    provider: str = Field(default=AUTO, max_length=16)
    idle_s: float | None = Field(default=None, ge=1, le=30 * 86400)
    warm_up: bool = True
    approvals: int | None = Field(default=None, ge=0, le=MAX_APPROVALS)
    webhooks: list[WebhookBody] | None = Field(default=None, max_length=MAX_WEBHOOKS)

    def wanted_hosting(self) -> Hosting:
        """Return where the version shall run, and with how much."""
        return Hosting(
            self.hosting,
            Execution(self.instances, self.threads, self.provider),
            Limits(self.cpus, self.memory_limit_bytes, self.gpu),
        )


class ReportBody(Body):
    """What became of one answer."""

    request_id: str = Field(max_length=256)
    value: float | bool
    metric: str = Field(default="outcome", max_length=128)


class FeedbackBody(Body):
    """Reports of several answers."""

    reports: list[ReportBody] = Field(min_length=1, max_length=10_000)
