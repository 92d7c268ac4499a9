"""What the API takes; unknown fields are refused."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from salver.core.hosting import (
    AUTO,
    MAX_GPU,
    MAX_INSTANCES,
    MAX_THREADS,
    Execution,
    Hosting,
    Limits,
)
from salver.core.rollouts import RolloutPolicy, basis_points, check_policy

_DIGEST = Field(pattern="^[0-9a-f]{64}$")


class Body(BaseModel):
    """Base of every body."""

    model_config = ConfigDict(extra="forbid", strict=True)


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
    analysis: dict[str, Any] = Field(default_factory=dict, max_length=32)

    @classmethod
    def of(cls, policy: RolloutPolicy) -> "RolloutPolicyBody":
        """Return a policy as people write it."""
        values = {name: getattr(policy, name) for name in cls.model_fields}
        shown = [step / 100 for step in policy.steps] or [100.0]
        return cls.model_validate({**values, "steps": shown, "sample": policy.sample / 100})

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
            )
        )


class ActionBody(Body):
    """Something that a person wants, who it is, and why."""

    by: str = Field(default="local", min_length=1, max_length=128)
    reason: str = Field(default="", max_length=1024)


class RolloutBody(RolloutPolicyBody):
    """A rollout that shall begin."""

    to: str = Field(min_length=1, max_length=300)
    by: str = Field(default="local", min_length=1, max_length=128)
    force: bool = False


class ShadowBody(ActionBody):
    """A version that shall get copies of a share of the requests."""

    version: str = Field(min_length=1, max_length=300)
    sample: float = Field(default=1.0, gt=0, le=1)
    force: bool = False


class ExperimentBody(ActionBody):
    """Versions between which requests are split, in percent, and what they are compared by."""

    arms: list[str] = Field(min_length=2, max_length=8)
    split: list[float] = Field(min_length=2, max_length=8)
    metric: str = Field(default="outcome", min_length=1, max_length=64)
    force: bool = False


class WeightBody(ActionBody):
    """A canary's weight in percent."""

    weight: float = Field(ge=0, le=100)


class RollbackBody(ActionBody):
    """Going back, whatever stands against it if ``force``."""

    force: bool = False


class EndpointBody(Body):
    """What an endpoint shall serve, and how."""

    model: str = Field(max_length=300)
    replicas: int = Field(default=1, ge=1, le=64)
    validation: str = "off"
    timeout_s: float = Field(default=30.0, gt=0, le=3600)
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
    routing: dict[str, Any] | None = None
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
